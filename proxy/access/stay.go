package access

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/grpcapi/wire"
)

// Stay is a client's stream that was opened upstream in the proxy's own name. Upstream goes on to answer what it was asked for,
// whatever becomes of the client's rights. So before each message to the client it is seen whether the client may still ask for
// that: where nothing has changed that is the comparison of two pointers.
//
// A client's stream of watches that upstream judges itself is one too: upstream does so only when a watch is created. Whether a
// token may still have it cannot be judged here, so it ends when users or roles have changed, and its client comes again.
//
// All methods may be called concurrently.
type Stay struct {
	guard  *Guard
	client context.Context // the RPC's
	method string
	own    bool // opened in the proxy's own name
	end    sync.Once

	mu      sync.Mutex  // guards what follows, also while it is judged
	in      *generation // the newest in which something was judged again
	asked   []wire.Raw  // what was permitted and goes on
	checked int         // how many of asked were permitted in that generation
	bytes   int
	lost    bool // something that was permitted in it is not kept
}

// maxStayBytes bounds what is kept of a stream. One that has asked for more ends when something changes, to come again.
const maxStayBytes = 256 << 10

// Stay begins to keep what a stream asks for. client is the context of its RPC, and judged that with which it will be opened,
// from Judge if that was asked. It is nil, of which all methods may be called, where upstream judges a stream that is not of
// watches, or each message has its own answer. The error is Unavailable, or of client: the stream is not to be opened.
func (g *Guard) Stay(client, judged context.Context, method string) (*Stay, error) {
	own := g.IsOwn(judged)
	if !g.HasIdentity() || !own && method != pb.Watch_Watch_FullMethodName || method == pb.Lease_LeaseKeepAlive_FullMethodName {
		return nil, nil
	}
	g.Watching(1) // so that changes are seen
	s := &Stay{guard: g, client: client, method: method, own: own}
	if !own && g.regime() == Guarded {
		p, err := g.roster.settled(client)
		if err != nil {
			s.End()
			return nil, err
		}
		s.in = p.generation
	}
	return s, nil
}

// End says that the stream has ended. It may be called again.
func (s *Stay) End() {
	if s != nil {
		s.end.Do(func() { s.guard.Watching(-1) })
	}
}

// Ask records a message from the client that Judge has permitted. Its errors are those of Check.
func (s *Stay) Ask(req wire.Raw) error {
	if s == nil || !s.own {
		return nil
	}
	var r wire.WatchRequest
	if s.method == pb.Watch_Watch_FullMethodName && r.Unmarshal(req) == nil && r.Kind != wire.WatchCreates {
		return nil // it asks for nothing that goes on
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, req)
	if s.bytes += len(req) + 32; s.bytes <= maxStayBytes {
		return nil
	}
	err := s.check()
	s.asked, s.checked, s.bytes, s.lost = nil, 0, 0, true
	return err
}

// Check returns why the client must not be sent anything any more: with etcd's error for a request that is not permitted any
// more, or Unavailable if that cannot be told. It waits for what is not known.
func (s *Stay) Check() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.own {
		return s.checkForeign()
	}
	return s.check()
}

// checkForeign looks at a stream that upstream has judged. Without the role root of its own the proxy lets it go on, as etcd does.
// It is called with s.mu held.
func (s *Stay) checkForeign() error {
	g := s.guard
	if g.regime() != Guarded {
		return nil
	}
	p, err := g.roster.settled(s.client)
	if err == nil && p.enabled && p.own != someRights && p.generation != s.in {
		err = errUnjudged
	}
	return err
}

// check is called with s.mu held.
func (s *Stay) check() error {
	g := s.guard
	p, err := g.roster.settled(s.client)
	if err != nil {
		return err
	}
	if p.generation != s.in {
		if s.lost {
			return errUnjudged
		}
		s.in, s.checked = p.generation, 0
		g.roster.watch(clientOf(s.client).name)
	}
	for ; s.checked < len(s.asked); s.checked++ {
		judged, err := g.Judge(s.client, s.method, s.asked[s.checked])
		if err != nil {
			return err
		}
		if !g.Lends(judged) {
			return errUnjudged
		}
	}
	return nil
}
