package suite

import (
	"context"
	"fmt"
	"slices"

	"weir/loadtest/load"
	"weir/loadtest/report"
)

// Large values: what etcd takes by default is 1.5 MiB a request.
const (
	largeClients  = 8
	largePut      = 100 << 10
	largeGet      = 1 << 20
	largePutKeys  = 100
	largeReadKeys = 20
)

// largeScenarios are those in which bytes are what costs.
func largeScenarios() []Scenario {
	key := func(kind string) func(i int) []byte {
		return func(i int) []byte { return fmt.Appendf(nil, "%slarge/%s/%08d", Prefix, kind, i) }
	}
	who := fmt.Sprintf("%d clients on a connection each, with one", largeClients)
	return []Scenario{
		{
			Info: report.Scenario{Name: "put-100KiB", Kind: "writes", Unit: "put",
				Description: fmt.Sprintf("%s put under way, of a random one of %d keys, with a value of 100 KiB.", who, largePutKeys)},
			New: func(s *System, r *Recorder) Load {
				return newClosedLoop(s, r, load.Clients{Connections: largeClients, PerConn: 1, Client: func(int) load.Requester {
					return &putter{keys: largePutKeys, key: key("put"), value: slices.Repeat([]byte("l"), largePut)}
				}})
			},
		},
		{
			Info: report.Scenario{Name: "get-1MiB", Kind: "reads", Unit: "get",
				Description: fmt.Sprintf("%s linearizable get under way, of a random one of %d keys with a value of 1 MiB.", who, largeReadKeys)},
			ProxyArgs: []string{"--cache-prefix=" + Prefix},
			Fill: func(ctx context.Context, s *System) error {
				return fill(ctx, s, largeReadKeys, key("get"), slices.Repeat([]byte("l"), largeGet))
			},
			New: func(s *System, r *Recorder) Load {
				return newClosedLoop(s, r, load.Clients{Connections: largeClients, PerConn: 1, Client: func(int) load.Requester {
					return getters(largeReadKeys, largeGet, key("get"))
				}})
			},
		},
	}
}
