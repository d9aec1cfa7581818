package core

import (
	"cmp"
	"context"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/peer"

	"weir/core/transport"
)

// Detail is what a member says of itself to people.
type Detail struct {
	ID      string         `json:"id"`
	Name    string         `json:"name"`
	Version string         `json:"version"` // of etcd, that it speaks as
	Members []MemberDetail `json:"members"`
	Alarms  []AlarmDetail  `json:"alarms"`

	Revision  int64  `json:"revision"`
	Term      uint64 `json:"raft_term"`
	Committed uint64 `json:"raft_index"`
	Applied   uint64 `json:"raft_applied_index"`
	Pending   int    `json:"proposals_pending"`

	DBSize      int64 `json:"db_size"`
	DBSizeInUse int64 `json:"db_size_in_use"`
	Quota       int64 `json:"quota"` // negative is none

	// Fsync is of batches of the log, and Apply of requests.
	Fsync DurationDetail `json:"fsync"`
	Apply DurationDetail `json:"apply"`

	Leases  int         `json:"leases"`
	Watches WatchDetail `json:"watches"`
}

// MemberDetail is one member of the cluster.
type MemberDetail struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Leads      bool     `json:"leads"`
	Learner    bool     `json:"learner"`
	ClientURLs []string `json:"client_urls"`
	PeerURLs   []string `json:"peer_urls"`
	// Connected tells whether this member has a connection to that one; it has to itself. Since is when that began to be so, not there
	// of itself, nor while the first attempt lasts.
	Connected bool       `json:"connected"`
	Since     *time.Time `json:"since,omitempty"`
	Error     string     `json:"error,omitempty"` // why it has none
}

// AlarmDetail is an alarm that is raised.
type AlarmDetail struct {
	Alarm  string `json:"alarm"`
	Member string `json:"member"`
}

// DurationDetail is how long something took since the start.
type DurationDetail struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean_seconds"`
	P99   float64 `json:"p99_seconds"` // at most; as exact as the buckets of the metric are
	total float64 // seconds
}

// WatchDetail is all watches.
type WatchDetail struct {
	Streams   int    `json:"streams"`
	Watches   int    `json:"watches"`
	Behind    int    `json:"behind"` // that have not been sent all that there is
	Delivered uint64 `json:"events_delivered"`
}

// Detail is as of now. It may be called at any time, also after Close.
func (n *Node) Detail() Detail {
	leader, w := n.leader.Load(), n.hub.Stats()
	d := Detail{
		ID: idString(n.member.ID), Name: n.cfg.Name, Version: version.Version, Members: []MemberDetail{}, Alarms: []AlarmDetail{},
		Revision: n.hub.Revision(), Term: n.term.Load(), Committed: n.committed.Load(), Applied: n.applied.Load(), Pending: n.queue.requests(),
		DBSize: n.store.Size(), DBSizeInUse: n.store.SizeInUse(), Quota: n.cfg.QuotaBytes,
		Fsync: durationOf(n.log.SyncTimes().Collect), Apply: durationOf(n.metrics.applies.collect),
		Leases:  n.leases.Len(),
		Watches: WatchDetail{Streams: w.Streams, Watches: w.Watchers, Behind: w.Behind, Delivered: w.Delivered},
	}
	for _, m := range n.members.list() {
		member := MemberDetail{
			ID: idString(m.ID), Name: m.Name, Leads: m.ID == leader, Learner: m.IsLearner, ClientURLs: m.ClientURLs, PeerURLs: m.PeerURLs,
			Connected: m.ID == n.member.ID,
		}
		if m.ID != n.member.ID {
			member.setConnection(n.transport.State(m.ID))
		}
		d.Members = append(d.Members, member)
	}
	slices.SortStableFunc(d.Members, func(a, b MemberDetail) int { return cmp.Compare(a.Name, b.Name) })
	for _, a := range n.alarms.list(pb.AlarmType_NONE) {
		d.Alarms = append(d.Alarms, AlarmDetail{a.Alarm.String(), idString(a.MemberID)})
	}
	return d
}

func (m *MemberDetail) setConnection(s transport.State) {
	m.Connected = s.Connected
	if !s.Since.IsZero() {
		since := s.Since.UTC()
		m.Since = &since
	}
	if s.Err != nil {
		m.Error = s.Err.Error()
	}
}

// PermitStatus refuses who may not see what all clients do: while authentication is on, who does not have the role root.
func (n *Node) PermitStatus(ctx context.Context) error { return n.permitAdmin(ctx) }

// Login is Authenticate.
func (n *Node) Login(ctx context.Context, name, password string) (token string, err error) {
	r, err := n.Authenticate(ctx, &pb.AuthenticateRequest{Name: name, Password: password})
	return r.GetToken(), err
}

// Who names the client of an RPC to people: a user while authentication is on, else an address.
func (n *Node) Who(ctx context.Context) string {
	if id, err := n.identify(ctx); err == nil && id.User != "" {
		return "user:" + id.User
	}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		if host, _, err := net.SplitHostPort(p.Addr.String()); err == nil {
			return "address:" + host
		}
	}
	return "local"
}

// durationOf is all histograms together that collect has, which are of one metric.
func durationOf(collect func(chan<- prometheus.Metric)) (d DurationDetail) {
	metrics := make(chan prometheus.Metric)
	go func() {
		defer close(metrics)
		collect(metrics)
	}()
	upTo := map[float64]uint64{}
	for m := range metrics {
		var now dto.Metric
		if m.Write(&now) != nil || now.Histogram == nil {
			continue
		}
		d.Count += now.Histogram.GetSampleCount()
		d.total += now.Histogram.GetSampleSum()
		for _, b := range now.Histogram.Bucket {
			upTo[b.GetUpperBound()] += b.GetCumulativeCount()
		}
	}
	if d.Count == 0 {
		return d
	}
	d.Mean = d.total / float64(d.Count)
	bounds := make([]float64, 0, len(upTo))
	for bound := range upTo {
		bounds = append(bounds, bound)
	}
	slices.Sort(bounds)
	for _, d.P99 = range bounds {
		if upTo[d.P99]*100 >= d.Count*99 {
			break
		}
	}
	return d
}
