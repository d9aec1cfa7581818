package linearizable

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// etcd's own proxy answers serializable reads from a cache that is never told of others' writes. The checks, with the requests
// that the clients of weir's send, must find that out.
func TestEtcdsProxyIsFoundOut(t *testing.T) {
	t.Parallel()
	s := newSite(t, place{member: target.Etcd37, members: 1})
	path, err := bin.Build(s.Ctx, proc.Etcd37)
	s.Must(err)
	addr, err := proc.FreeAddr()
	s.Must(err)
	p, err := proc.Start("grpc-proxy", path, []string{"grpc-proxy", "start", "--listen-addr=" + addr, "--endpoints=" + s.Cluster.Members[0].Addr}, nil)
	s.Must(err)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	s.Must(p.WaitReady(s.Ctx, target.Serves(addr)))
	s.serve(&server{name: "grpc-proxy", addr: addr, proxy: true})

	f := s.follow()
	older, back, illegal := 0, 0, 0
	for older == 0 || back == 0 || illegal == 0 {
		ctx, cancel := context.WithTimeout(s.Ctx, time.Second)
		s.Load.Run(ctx)
		cancel()
		truth, last, err := s.end(s.Ctx, f)
		s.Must(err) // the test's time is over
		older, back, illegal = 0, 0, 0
		for _, v := range truth.Check(append(s.ops(), last), Promises{Disturbed: never}) {
			switch {
			case strings.Contains(v.What, "is older than"):
				older++
			case strings.Contains(v.What, "on a connection that had been told"):
				back++
			}
		}
		for _, h := range s.histories {
			if takenForLinearizable(h).Check() == porcupine.Illegal {
				illegal++
			}
		}
	}
	t.Logf("of %d histories %d are not linearizable if all reads should be; %d answers are older than the newest, and %d than the connection was told",
		len(s.histories), illegal, older, back)
	if len(s.wrong) > 0 {
		t.Errorf("%d histories are not linearizable, but linearizable reads are forwarded", len(s.wrong))
	}
}

// takenForLinearizable is a history in which no read was allowed to be old.
func takenForLinearizable(h *History) *History {
	all := *h
	all.Ops = nil
	for _, o := range h.Ops {
		strict := *o
		strict.Then = slices.Clone(o.Then)
		for i := range strict.Then {
			strict.Then[i].Read.Serializable = false
		}
		all.Ops = append(all.Ops, &strict)
	}
	return &all
}
