package tenants

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

const reloadFile = "tenants.yaml"

func reload(t *testing.T, table *Table, text string, limits Limits) {
	t.Helper()
	file := reloadFile
	if text == "" {
		file = ""
	}
	if err := table.Reload(file, []byte(text), limits); err != nil {
		t.Fatal(err)
	}
}

// endedBy is what has ended an RPC's context, nil if nothing has.
func endedBy(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

func TestReloadEndsOnlyStreamsThatMayNotGoOn(t *testing.T) {
	const (
		annReads  = "tenants:\n- {name: a, users: [ann], namespace: /a/, access: read-only}\n- {name: b, users: [bob], namespace: /b/}\n"
		annMoved  = "tenants:\n- {name: a, users: [ann], namespace: /c/}\n- {name: b, users: [bob], namespace: /b/}\n"
		annGone   = "tenants:\n- {name: b, users: [bob], namespace: /b/}\n"
		annOther  = annGone + "default: {namespace: /others/}\n"
		annCalled = "tenants:\n- {name: other, users: [ann], namespace: /a/, weight: 3, limits: {watches: 1}}\n- {name: b, users: [bob], namespace: /b/}\n"
		annFree   = "tenants:\n- {name: a, users: [ann]}\n- {name: b, users: [bob], namespace: /b/}\n"
	)
	for _, c := range []struct {
		name, text  string
		watch, ping error // of ann's streams
	}{
		{"the same", annMoved[:0] + twoTenants, nil, nil},
		{"only reads", annReads, nil, errReadsOnly},
		{"another namespace", annMoved, errOtherKeys, errOtherKeys},
		{"gone", annGone, errNotTenant, errNotTenant},
		{"the default", annOther, errOtherKeys, errOtherKeys},
		{"another name and terms", annCalled, nil, nil},
		{"all keys", annFree, errOtherKeys, errOtherKeys},
		{"no file", "", errOtherKeys, errOtherKeys},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := newTable(t, twoTenants, Config{Upstream: newStore(t)})
			watch := enter(t, table, ann, pb.Watch_Watch_FullMethodName)
			ping := enter(t, table, ann, pb.Lease_LeaseKeepAlive_FullMethodName)
			list := enter(t, table, ann, pb.KV_RangeStream_FullMethodName)
			others := enter(t, table, bob, pb.Watch_Watch_FullMethodName)
			call := enter(t, table, ann, pb.KV_Range_FullMethodName)
			reload(t, table, c.text, Limits{})
			if err := endedBy(watch.Context()); err != c.watch {
				t.Errorf("the stream of watches: %v, want %v", err, c.watch)
			}
			if err := endedBy(list.Context()); err != c.watch {
				t.Errorf("the range that is read in parts: %v, want %v", err, c.watch)
			}
			if err := endedBy(ping.Context()); err != c.ping {
				t.Errorf("the stream of pings: %v, want %v", err, c.ping)
			}
			if c.text != "" && endedBy(others.Context()) != nil {
				t.Errorf("another tenant's stream ended: %v", endedBy(others.Context()))
			}
			if call.Context() != nil || call.Namespace() != "/a/" {
				t.Errorf("a call under way is in %s", call.Namespace())
			}
			for _, v := range []interface{ Context() context.Context }{watch, ping, list, others} {
				if v.Context() == nil {
					t.Error("a stream has no end of its own")
				}
			}
			watch.Leave(nil, nil)
			ping.Leave(nil, nil)
			list.Leave(nil, nil)
			others.Leave(nil, nil)
			call.Leave(nil, nil)
			if n := len(table.lasting.open); n != 0 {
				t.Errorf("%d streams are left", n)
			}
		})
	}
}

func TestStreamsFromBeforeTheTenantsAreJudgedByThem(t *testing.T) {
	table := newTable(t, "", Config{Upstream: newStore(t), Reloads: true})
	anns := enter(t, table, ann, pb.Watch_Watch_FullMethodName)
	defer anns.Leave(nil, nil)
	nobodys := enter(t, table, &caller{}, pb.Watch_Watch_FullMethodName)
	defer nobodys.Leave(nil, nil)
	doubtful := enter(t, table, &caller{token: "signed-ann"}, pb.Watch_Watch_FullMethodName)
	defer doubtful.Leave(nil, nil)
	for _, limits := range []Limits{{}, {Watches: 3}} {
		reload(t, table, "", limits)
		if endedBy(anns.Context()) != nil || endedBy(nobodys.Context()) != nil {
			t.Fatal("limits ended a stream")
		}
	}
	reload(t, table, "tenants:\n- {name: a, users: [ann]}\n", Limits{})
	for v, want := range map[interface{ Context() context.Context }]error{anns: nil, nobodys: errNotTenant, doubtful: errNamedAgain} {
		if err := endedBy(v.Context()); err != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if status.Code(errNamedAgain) != codes.Unavailable { // client/v3 comes again after that, and after nothing else
		t.Error("who is not known does not come again")
	}
}

func TestABadFileChangesNothing(t *testing.T) {
	table := newTable(t, twoTenants+"...\n", Config{Upstream: newStore(t)})
	if err := table.Reload(table.now.Load().file, []byte(twoTenants), Limits{}); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a file without its last line: %v", err)
	}
	table = newTable(t, twoTenants, Config{Upstream: newStore(t)})
	before := table.now.Load()
	v := enter(t, table, ann, pb.Watch_Watch_FullMethodName)
	defer v.Leave(nil, nil)
	for text, want := range map[string]string{
		"": "neither tenants nor a default",
		"tenants:\n- {name: a, users: [ann], namespace: /z/}\n- {name: b, users: [ann]}\n": reloadFile + ":3: ",
		"tenants:\n- {name: a, users: [ann], namespace: /z/}\n- {name: b, user":            reloadFile + ":",
	} {
		if err := table.Reload(reloadFile, []byte(text), Limits{}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if err := table.Reload("", nil, Limits{Watches: -1}); err == nil {
		t.Error("a negative limit is taken")
	}
	if table.now.Load() != before || endedBy(v.Context()) != nil {
		t.Error("something has changed")
	}
}

func TestLimitsAreRaisedAndLoweredUnderWhoIsThere(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const file = "tenants:\n- {name: a, users: [ann], limits: {watches: %}}\n"
		with := func(n string) string { return strings.ReplaceAll(file, "%", n) }
		table := newTable(t, with("2"), Config{Limits: Limits{Requests: 1}})
		v := enter(t, table, ann, pb.Watch_Watch_FullMethodName)
		defer v.Leave(nil, nil)
		watch := func(want bool) {
			t.Helper()
			time.Sleep(time.Minute) // requests are limited, too
			if err := v.Watch(); (err == nil) != want {
				t.Errorf("another watch: %v", err)
			}
		}
		watch(true)
		watch(true)
		watch(false)
		reload(t, table, with("3"), Limits{Requests: 1})
		watch(true)
		watch(false)
		reload(t, table, with("1"), Limits{Requests: 1})
		watch(false)
		if endedBy(v.Context()) != nil {
			t.Error("a limit that was lowered ended a stream")
		}
		v.Unwatch()
		v.Unwatch()
		watch(false)
		v.Unwatch()
		watch(true)

		rate := func(r float64, want int) {
			t.Helper()
			reload(t, table, with("0"), Limits{Requests: r})
			time.Sleep(time.Minute)
			n := 0
			for call(t, table, ann, pb.KV_Range_FullMethodName, &pb.RangeRequest{}) == nil && n < 1000 {
				n++
			}
			if n != want {
				t.Errorf("%d requests at once of %v a second", n, r)
			}
		}
		rate(10, 10)
		rate(3, 3)
		rate(0, 1000)
		rate(7, 7)
	})
}

func TestBytesAreLimitedFromAReloadOn(t *testing.T) {
	now := time.Now()
	m := meter{rate: 100}
	m.charge(now, 50)
	m.change(now, 10)
	if m.wait(now) != 0 || m.debt != -10 {
		t.Errorf("of what was spared %v is left", -m.debt)
	}
	m.charge(now, 30)
	m.change(now, 20)
	if got := m.wait(now); got != time.Second {
		t.Errorf("what is owed is paid in %v", got)
	}
	m.change(now, 0)
	m.charge(now, 1000)
	if m.wait(now) != 0 {
		t.Error("without a limit something is owed")
	}
}

func TestWhatIsCountedStaysCountedWhoseverItIs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newStore(t)
		s.write(map[string]int{"/a/1": 1, "/a/2": 1, "/b/1": 1})
		const owner, guest = "tenants:\n- {name: a, users: [ann], namespace: /a/, max-keys: 3}\n", "- {name: g, users: [bob], namespace-of: a}\n"
		table := newTable(t, owner+guest, Config{Hub: s.hub, Upstream: s})
		usage := func(want UsageStat) {
			t.Helper()
			time.Sleep(time.Minute)
			all := table.Status().Usage
			if len(all) != 1 || all[0].Tenant != want.Tenant || all[0].Keys != want.Keys || all[0].MaxKeys != want.MaxKeys || !all[0].Known {
				t.Errorf("usage: %+v, want %+v", all, want)
			}
		}
		usage(UsageStat{Tenant: "a", Keys: 2, MaxKeys: 3})
		before := table.counts["/a/"]
		put := func(key string) error {
			return call(t, table, ann, pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte(key)})
		}
		// A write that is under way counts for the quota that is lowered meanwhile.
		v, err := table.Enter(ann.ctx(t.Context()), pb.KV_Put_FullMethodName, marshal(t, &pb.PutRequest{Key: []byte("4")}))
		if err != nil {
			t.Fatal(err)
		}
		reload(t, table, strings.ReplaceAll(owner, "max-keys: 3", "max-keys: 2")+guest, Limits{})
		if table.counts["/a/"] != before {
			t.Error("it is counted anew")
		}
		if err := put("5"); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("above the quota: %v", err)
		}
		v.Leave(marshal(t, &pb.PutResponse{Header: &pb.ResponseHeader{Revision: s.write(map[string]int{"/a/4": 0})}}), nil)
		usage(UsageStat{Tenant: "a", Keys: 3, MaxKeys: 2})

		// Another name and no guest, the same keys.
		reload(t, table, "tenants:\n- {name: z, users: [ann], namespace: /a/, max-keys: 9}\n", Limits{})
		if table.counts["/a/"] != before {
			t.Error("it is counted anew for another name")
		}
		usage(UsageStat{Tenant: "z", Keys: 3, MaxKeys: 9})

		// Other keys.
		reload(t, table, "tenants:\n- {name: z, users: [ann], namespace: /b/, max-keys: 9}\n", Limits{})
		if err := put("x"); status.Code(err) != codes.Unavailable {
			t.Errorf("before they are counted: %v", err)
		}
		usage(UsageStat{Tenant: "z", Keys: 1, MaxKeys: 9})
		reload(t, table, "tenants:\n- {name: z, users: [ann], namespace: /b/}\n", Limits{})
		if all := table.Status().Usage; all != nil {
			t.Errorf("without a quota: %+v", all)
		}
	})
}

func TestALeaseStaysWhoseItWasWhenNamespacesChange(t *testing.T) {
	s := newStore(t)
	s.leases[1], s.leases[2] = nil, []string{"/a/longer/x"}
	table := newTable(t, twoTenants, Config{Upstream: s})
	grant, err := table.Enter(ann.ctx(t.Context()), pb.Lease_LeaseGrant_FullMethodName, marshal(t, &pb.LeaseGrantRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	grant.Leave(marshal(t, &pb.LeaseGrantResponse{ID: 1}), nil)
	ping := func(c *caller, id int64) error {
		v := enter(t, table, c, pb.Lease_LeaseKeepAlive_FullMethodName)
		defer v.Leave(nil, nil)
		return v.PingRights().Check(t.Context(), id)
	}
	if err := ping(bob, 1); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another's lease: %v", err)
	}
	if err := ping(ann, 2); err != nil { // of which no more is kept than the namespaces that there are need
		t.Error(err)
	}
	reload(t, table, "tenants:\n- {name: a, users: [ann], namespace: /a/longer/}\n- {name: b, users: [bob], namespace: /b/}\n", Limits{})
	if err := ping(ann, 2); err != nil {
		t.Errorf("a lease with keys in the longer namespace: %v", err)
	}
	if err := ping(bob, 1); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another's lease, without keys, after the reload: %v", err)
	}
}

func TestReloadsMeetClientsThatComeAndGo(t *testing.T) {
	s := newStore(t)
	table := newTable(t, twoTenants, Config{Hub: s.hub, Upstream: s})
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 500 {
				for _, c := range []*caller{ann, bob} {
					one := *c
					v, err := table.Enter(one.ctx(context.Background()), pb.Watch_Watch_FullMethodName, nil)
					if err != nil {
						continue
					}
					_ = v.Watch()
					v.Leave(nil, nil)
				}
			}
		}()
	}
	for left := 4; left > 0; {
		for _, text := range []string{"tenants:\n- {name: a, users: [ann], namespace: /c/, max-keys: 5}\n", twoTenants} {
			reload(t, table, text, Limits{Watches: 5})
		}
		select {
		case <-done:
			left--
		default:
		}
	}
	if n := len(table.lasting.open); n != 0 {
		t.Errorf("%d streams are left", n)
	}
	for who, a := range table.accounts.of {
		if a.watching != 0 || a.open != [lanes]int{} {
			t.Errorf("%s has %d watches and %v open", who, a.watching, a.open)
		}
	}
}

// A proxy that is a client sends the pings of its clients by weir's own method.
func TestWhoMayOnlyReadPingsByNoMethod(t *testing.T) {
	table := newTable(t, "tenants:\n- {name: a, users: [ann]}\n", Config{Upstream: newStore(t)})
	v := enter(t, table, ann, wire.PingsMethod)
	defer v.Leave(nil, nil)
	reload(t, table, "tenants:\n- {name: a, users: [ann], access: read-only}\n", Limits{})
	if err := endedBy(v.Context()); err != errReadsOnly {
		t.Errorf("got %v, want %v", err, errReadsOnly)
	}
}

// That settings may change costs nobody anything as long as they have not.
func TestWhereNothingIsJudgedUpstreamIsNotAskedWhoSomebodyIs(t *testing.T) {
	u := &users{}
	table := newTable(t, "", Config{Users: u, Reloads: true})
	for i := range 3 * maxDoubts {
		v, err := table.Enter((&caller{token: fmt.Sprint("signed-", i)}).ctx(t.Context()), pb.Watch_Watch_FullMethodName, nil)
		if err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
		defer v.Leave(nil, nil)
	}
	if u.asked > 0 {
		t.Errorf("upstream was asked %d times", u.asked)
	}
}
