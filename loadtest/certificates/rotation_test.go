package certificates

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// keyring is what everybody in a test uses now: servers from files, visitors from here. Visitors trust every authority
// there has been.
type keyring struct {
	f folder

	mu      sync.RWMutex // held for reading during a visit, so that nobody shows what has just been outlawed
	visitor *tls.Config
}

// turn replaces the authority and all that it has signed, in the order in which an administrator has to: first everybody
// trusts both, last nobody trusts the old one.
func (k *keyring) turn(old, next *authority) (own pair) {
	k.f.t.Helper()
	own = next.issue(nil)
	shown := next.issue(named("visitor"))

	k.f.write("ca.crt", old.pem()+next.pem())
	k.change(func(c *tls.Config) {
		c.RootCAs = c.RootCAs.Clone()
		c.RootCAs.AddCert(next.cert)
	})
	k.f.flags("server", own)
	k.f.flags("proxy", next.issue(nil))
	k.change(func(c *tls.Config) {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shown.Certificate, nil }
	})
	k.f.write("ca.crt", next.pem())
	return own
}

// change waits until nobody visits, and lets visitors be others from then on.
func (k *keyring) change(by func(*tls.Config)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	visitor := k.visitor.Clone()
	by(visitor)
	k.visitor = visitor
}

// load is clients of some ports, until it is stopped.
type load struct {
	t     *testing.T
	ctx   context.Context
	ring  *keyring
	visit chan string // the port of a visit that went well; not waited for
	acked atomic.Int64
	tasks sync.WaitGroup
}

// work writes on one connection until stopped, while another watches what is written.
func (l *load) work(p *port) {
	key, last := []byte(p.program), []byte("last")
	ctx, cancel := context.WithCancel(l.t.Context())
	l.t.Cleanup(cancel)
	kv := pb.NewKVClient(l.dial(p))
	watch, err := pb.NewWatchClient(l.dial(p)).Watch(ctx)
	must(l.t, err)
	must(l.t, watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: key}}}))
	_, err = watch.Recv()
	must(l.t, err)
	l.tasks.Go(func() {
		for value := []byte(nil); value == nil; {
			if l.ctx.Err() != nil {
				value = last
			}
			if _, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: value}); err != nil {
				l.t.Errorf("%s: put: %v", p.program, err)
				cancel() // there is nothing more to watch
				return
			}
			l.acked.Add(1)
		}
	})
	l.tasks.Go(func() {
		for seen, value := int64(0), []byte(nil); !bytes.Equal(value, last); {
			r, err := watch.Recv()
			if err != nil || r.Canceled {
				l.t.Errorf("%s: watch: %v, %v", p.program, err, r)
				return
			}
			for _, e := range r.Events {
				seen, value = seen+1, e.Kv.Value
				if e.Kv.Version != seen {
					l.t.Errorf("%s: version %d instead of %d", p.program, e.Kv.Version, seen)
					return
				}
			}
		}
	})
}

func (l *load) dial(p *port) *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(credentials.NewTLS(l.ring.visitor)))
	must(l.t, err)
	l.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// come visits again and again, each time on a new connection.
func (l *load) come(p *port) {
	ways := append(inGRPC(), inHTTP("/health", clientsAddr)...)
	l.tasks.Go(func() {
		for i := 0; l.ctx.Err() == nil; i++ {
			w := ways[i%len(ways)]
			l.ring.mu.RLock()
			err := w.try(l.t, p, l.ring.visitor.Clone())
			l.ring.mu.RUnlock()
			if err != nil {
				l.t.Errorf("%s at %s: %v", w.name, p.program, err)
				return
			}
			select {
			case l.visit <- string(p.program):
			default:
			}
		}
	})
}

func TestRotationUnderLoadDropsNothing(t *testing.T) {
	f, first := newFolder(t), newAuthority(t)
	flags := append(f.flags("server", first.issue(nil)), "--trusted-ca-file="+f.write("ca.crt", first.pem()), "--client-crl-file="+f.write("list.crl", first.revoke()))
	f.flags("proxy", first.issue(nil))
	member := startPort(t, core, "https", "", flags...)
	before := startPort(t, proxy, "https", "https://"+member.addr, append(flags,
		"--cert="+f.path("proxy.crt"), "--key="+f.path("proxy.key"), "--cacert="+f.path("ca.crt"))...)
	ports := []*port{member, before}
	for _, p := range ports {
		if p.refused {
			t.Fatalf("%s did not start", p.program)
		}
	}

	ring := &keyring{f: f, visitor: alice(first, "visitor", nil).config(first)}
	ctx, stop := context.WithCancel(t.Context())
	l := &load{t: t, ctx: ctx, ring: ring, visit: make(chan string)}
	defer l.tasks.Wait()
	defer stop()
	for _, p := range ports {
		l.work(p)
		for range 2 {
			l.come(p)
		}
	}
	const rounds = 5
	a := first
	for round := range rounds {
		l.wantVisits(ports)
		old, next := ring.visitor.Clone(), newAuthority(t)
		own := ring.turn(a, next)
		for _, p := range ports {
			if got := shownTo(t, p.addr, ring.visitor).SerialNumber; got.Cmp(own.Leaf.SerialNumber) != 0 {
				t.Errorf("round %d: %s shows %v", round, p.program, got)
			}
			old.RootCAs = ring.visitor.RootCAs
			if calls(t, p.addr, old.Clone()) == nil {
				t.Errorf("round %d: %s lets in by an authority that is not trusted any more", round, p.program)
			}
		}
		// Whom the list has is out at once too. It is of serial numbers, and so is not to outlive its authority.
		outlaw := next.issue(nil)
		f.write("list.crl", next.revoke(outlaw))
		for _, p := range ports {
			if calls(t, p.addr, visitor{shows: &outlaw}.config(next)) == nil {
				t.Errorf("round %d: %s lets in whom the list has", round, p.program)
			}
		}
		f.write("list.crl", next.revoke())
		a = next
	}
	l.wantVisits(ports)
	stop()
	l.tasks.Wait()
	if l.acked.Load() == 0 {
		t.Error("nothing was written")
	}

	// The proxy's own connection is from the first round. A new one is made with what the files hold by now.
	must(t, member.Stop())
	must(t, member.Restart())
	member.wait(t)
	waitFor(t, func() error { return calls(t, before.addr, ring.visitor.Clone()) })
}

// wantVisits waits until every port has been visited on several connections from now on.
func (l *load) wantVisits(ports []*port) {
	l.t.Helper()
	left := map[string]int{}
	for _, p := range ports {
		left[string(p.program)] = 4
	}
	timeout := time.After(patience)
	for len(left) > 0 {
		select {
		case name := <-l.visit:
			if left[name]--; left[name] <= 0 {
				delete(left, name)
			}
		case <-timeout:
			l.t.Fatalf("nobody visits %v", left)
		}
	}
}

// waitFor asks until there is no error.
func waitFor(t *testing.T, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(fmt.Errorf("waited %v: %w", patience, err))
		}
	}
}
