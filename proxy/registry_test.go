package proxy

import (
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestRegistrationIsThatOfEtcdsProxy(t *testing.T) {
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for namespace, key := range map[string]string{"": "/proxies/10.0.0.1:23790", "/app": "/app/proxies/10.0.0.1:23790"} {
		f, dial := serveEtcd(t)
		p := newProxy(t, Config{
			Endpoints: []string{"a:1"}, Dial: dial, Namespace: namespace,
			Registration: Registration{Prefix: "/proxies", TTL: 60, URL: "10.0.0.1:23790"},
		})
		f.await(func() bool { return len(f.keys) == 1 })
		want := fmt.Sprintf(`{"Op":0,"Addr":"10.0.0.1:23790","Metadata":"{\"name\":\"%s\"}"}`, hostname)
		f.do(func() {
			if kv := f.keys[key]; kv == nil || string(kv.Value) != want || f.leases[kv.Lease] != 60 {
				t.Errorf("namespace %q: got %v, want %s at %s", namespace, f.keys, want, key)
			}
		})
		p.Withdraw()
		p.Withdraw()
		f.do(func() {
			if len(f.keys) != 0 || len(f.leases) != 0 {
				t.Errorf("a proxy that was withdrawn leaves %v and %v", f.keys, f.leases)
			}
		})
		p.Close()
	}
}

func TestRegistrationIsKeptAliveAndWrittenAgainWhenItsLeaseIsLost(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, dial := serveEtcd(t)
		p := newProxy(t, Config{Endpoints: []string{"a:1"}, Dial: dial, Registration: Registration{Prefix: "p", TTL: 9, URL: "me"}})
		f.await(func() bool { return len(f.keys) == 1 })
		time.Sleep(time.Minute)
		f.do(func() {
			if f.granted != 1 || f.pings != 19 && f.pings != 20 {
				t.Errorf("in a minute it took %d leases and %d pings of one of 9 s", f.granted, f.pings)
			}
			f.end(1)
		})
		f.await(func() bool { return len(f.keys) == 1 })

		// An outage longer than the lease.
		f.do(func() { f.down = rpctypes.ErrGRPCNoLeader })
		time.Sleep(time.Minute)
		f.do(func() {
			f.down = nil
			f.end(f.granted)
		})
		time.Sleep(registerIntervalMax)
		synctest.Wait()
		f.do(func() {
			if len(f.keys) != 1 || len(f.leases) != 1 {
				t.Errorf("after an outage there are %v and %v", f.keys, f.leases)
			}
		})
		p.Close()
	})
}

// What cannot be written must not leave a lease for each attempt.
func TestRegistrationThatIsRefusedLeavesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, dial := serveEtcd(t)
		f.do(func() { f.readOnly = true })
		p := newProxy(t, Config{Endpoints: []string{"a:1"}, Dial: dial, Registration: Registration{Prefix: "p", TTL: 3600, URL: "me"}})
		time.Sleep(time.Minute)
		synctest.Wait()
		f.do(func() {
			if f.granted < 3 || len(f.leases) > 0 {
				t.Errorf("%d attempts have left %d leases", f.granted, len(f.leases))
			}
			f.readOnly = false
		})
		time.Sleep(registerIntervalMax)
		synctest.Wait()
		f.do(func() {
			if len(f.keys) != 1 {
				t.Error("it is not registered when it may be")
			}
		})
		p.Close()
	})
}

func TestProxiesAreReadAtMostOnceASecondAndRemembered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, dial := serveEtcd(t)
		put := func(key, value string) {
			f.keys[key] = &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value)}
		}
		f.do(func() { f.down = rpctypes.ErrGRPCNoLeader })
		p := newProxy(t, Config{Endpoints: []string{"a:1"}, Dial: dial, Registration: Registration{Prefix: "p", TTL: 60, URL: "me"}})
		if got := p.Proxies(t.Context()); len(got) != 1 || got[0].ClientURLs[0] != "me" || got[0].Name == "" {
			t.Errorf("while nobody is known: got %v", got)
		}
		f.do(func() {
			f.down, f.ranges = nil, 0
			put("p/a", `{"Op":0,"Addr":"a:1","Metadata":"{\"name\":\"host a\"}"}`)
			put("p/b", `{"Op":0,"Addr":"b:1","Metadata":{"weight":3}}`) // of somebody else's
			put("p/c", `{"Op":0}`)
			put("p/d", `nothing`)
			put("p0", `{"Addr":"outside"}`)
			put("p", `{"Addr":"outside"}`)
		})
		time.Sleep(20 * time.Second) // registered by then
		want := []*pb.Member{{Name: "host a", ClientURLs: []string{"a:1"}}, {Name: "b:1", ClientURLs: []string{"b:1"}}, {Name: p.registry.name, ClientURLs: []string{"me"}}}
		check := func(when string) {
			t.Helper()
			got := p.Proxies(t.Context())
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: got %v, want %v", when, got, want)
			}
		}
		for range 100 {
			check("all")
		}
		f.do(func() {
			if f.ranges != 1 {
				t.Errorf("they were read %d times", f.ranges)
			}
			delete(f.keys, "p/a")
		})
		time.Sleep(listInterval + time.Millisecond)
		want = want[1:]
		check("one has gone")
		f.do(func() { f.down = rpctypes.ErrGRPCNoLeader })
		time.Sleep(time.Minute)
		f.do(func() { f.ranges = 0 })
		for range 100 {
			check("upstream is away")
		}
		f.do(func() {
			if f.ranges != 1 {
				t.Errorf("while upstream was away %d have asked", f.ranges)
			}
		})
		p.Close()
	})
}

// However many there are, all are read; and whoever may write there cannot have a proxy take gigabytes.
func TestRegistrationsAreReadAPageAtATime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, dial := serveEtcd(t)
		p := newProxy(t, Config{Endpoints: []string{"a:1"}, Dial: dial, Registration: Registration{Prefix: "p", TTL: 60, URL: "me"}})
		defer p.Close()
		time.Sleep(time.Second) // registered by then
		const others = 3*listPage + 1
		f.do(func() {
			for i := range others {
				key := fmt.Sprintf("p/other%d", i)
				f.keys[key] = &mvccpb.KeyValue{Key: []byte(key), Value: fmt.Appendf(nil, `{"Addr":"other%d"}`, i)}
			}
		})
		if all, err := p.registry.entries(t.Context()); err != nil || len(all) != others+1 {
			t.Errorf("%d are read, want %d; %v", len(all), others+1, err)
		}
		f.do(func() { f.keys["p/large"] = &mvccpb.KeyValue{Key: []byte("p/large"), Value: make([]byte, listBytes)} })
		if all, err := p.registry.entries(t.Context()); err == nil {
			t.Errorf("%d are read, with more bytes than are taken", len(all))
		}
	})
}
