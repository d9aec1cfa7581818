package reads

// What an etcd member says of itself.
const (
	rangesMetric = `grpc_server_started_total{grpc_method="Range",` // ever begun
	sentMetric   = "etcd_network_client_grpc_sent_bytes_total"
)

// hits is how many reads the proxy next to the clients has answered from memory; at a member 0.
func (s *site) hits() int {
	s.Helper()
	if len(s.Proxies) == 0 {
		return 0
	}
	reads := s.status().Reads
	return reads.Linearizable + reads.Serializable
}

// proxyStatus is a part of what the proxy says of itself.
type proxyStatus struct {
	Reads       struct{ Linearizable, Serializable int } // answered from memory
	SharedReads struct{ Calls, Shared int }              `json:"shared_reads"` // forwarded
}

// status is that of the proxy next to the clients.
func (s *site) status() proxyStatus {
	s.Helper()
	var now proxyStatus
	s.Must(s.Front().Status(s.Ctx, &now))
	return now
}
