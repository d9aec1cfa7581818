package tenants

import (
	"strconv"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// hint returns after how long a refused client is to come again, as both ways to say it have it.
func hint(t *testing.T, c *caller, err error) time.Duration {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted || s.Message() != rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests) {
		t.Fatalf("got %v, want etcd's too many requests", err)
	}
	if rpctypes.Error(err) != rpctypes.ErrTooManyRequests {
		t.Errorf("etcd's client takes it for %v", rpctypes.Error(err))
	}
	for _, d := range s.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			wait := r.RetryDelay.AsDuration()
			if got := c.trailer.Get(pushback); len(got) != 1 || got[0] != strconv.FormatInt(wait.Milliseconds(), 10) {
				t.Errorf("the trailer says %v, want %v", got, wait)
			}
			return wait
		}
	}
	t.Fatalf("%v says nothing about when to come again", err)
	return 0
}

func TestRequestsASecondAreLimited(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		table := newTable(t, "", Config{Limits: Limits{Requests: 10}})
		defer table.Close()
		c, other := &caller{}, &caller{address: tcp("10.0.0.2")}
		get := func(c *caller) error { return call(t, table, c, pb.KV_Range_FullMethodName, &pb.RangeRequest{}) }
		for range 3 {
			for i := range 10 {
				if err := get(c); err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
			}
			if wait := hint(t, c, get(c)); wait != 100*time.Millisecond {
				t.Errorf("told to wait %v, want 100ms", wait)
			}
			if err := get(other); err != nil {
				t.Errorf("another address: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
			if err := get(c); err != nil {
				t.Errorf("after the wait: %v", err)
			}
			hint(t, c, get(c))
			time.Sleep(10 * time.Second) // for no more than a second's worth
		}
		if got := table.Status().Refused; got != (Refused{Rate: 6}) {
			t.Errorf("refused %+v", got)
		}
	})
}

func TestLessThanOneRequestASecondIsPossible(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		table := newTable(t, "", Config{Limits: Limits{Requests: 0.25}})
		defer table.Close()
		c := &caller{}
		for range 3 {
			if err := call(t, table, c, pb.KV_Range_FullMethodName, &pb.RangeRequest{}); err != nil {
				t.Fatal(err)
			}
			wait := hint(t, c, call(t, table, c, pb.KV_Range_FullMethodName, &pb.RangeRequest{}))
			if wait != 4*time.Second {
				t.Errorf("told to wait %v, want 4s", wait)
			}
			time.Sleep(wait)
		}
	})
}

func TestBytesASecondAreLimitedThoughAMessageIsLarger(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		table := newTable(t, "", Config{Limits: Limits{Bytes: 1000}})
		defer table.Close()
		c := &caller{}
		put := func(request, answer int) error {
			v, err := table.Enter(c.ctx(t.Context()), pb.KV_Put_FullMethodName, make(wire.Raw, request))
			if err == nil {
				v.Leave(make(wire.Raw, answer), nil)
			}
			return err
		}
		if err := put(500, 499); err != nil {
			t.Fatal(err)
		}
		if err := put(2000, 3000); err != nil { // there was one byte left
			t.Fatal(err)
		}
		if wait := hint(t, c, put(1, 1)); wait != 4999*time.Millisecond {
			t.Errorf("told to wait %v, want 4.999s", wait)
		}
		time.Sleep(4999 * time.Millisecond)
		if err := put(1, 1); err != nil {
			t.Errorf("after the wait: %v", err)
		}
		hint(t, c, put(1, 1))
		time.Sleep(time.Minute)
		if err := put(1500, 0); err != nil { // a second's worth has been spared, not a minute's
			t.Fatal(err)
		}
		if wait := hint(t, c, put(1, 0)); wait != 500*time.Millisecond {
			t.Errorf("told to wait %v, want 500ms", wait)
		}
	})
}

func TestCallsInFlightAreLimitedAndLeaveKeepalivesAlone(t *testing.T) {
	table := newTable(t, "", Config{Limits: Limits{InFlight: 2}})
	c := &caller{}
	enter := func(method string) (wire.Visit, error) { return table.Enter(c.ctx(t.Context()), method, nil) }
	var inside []wire.Visit
	for range 2 {
		for _, method := range []string{pb.KV_Put_FullMethodName, pb.Lease_LeaseKeepAlive_FullMethodName} {
			v, err := enter(method)
			if err != nil {
				t.Fatalf("%s: %v", method, err)
			}
			inside = append(inside, v)
		}
	}
	for _, method := range []string{pb.KV_Put_FullMethodName, pb.KV_RangeStream_FullMethodName, pb.Lease_LeaseKeepAlive_FullMethodName} {
		if _, err := enter(method); hint(t, c, err) != callHint {
			t.Errorf("%s: %v", method, err)
		}
	}
	v, err := enter(pb.Watch_Watch_FullMethodName)
	if err != nil {
		t.Errorf("a stream of watches: %v", err)
	}
	v.Leave(nil, nil)
	inside[0].Leave(nil, status.Error(codes.Unavailable, "")) // however it ends
	if v, err = enter(pb.KV_Put_FullMethodName); err != nil {
		t.Errorf("when one has left: %v", err)
	}
	for _, v := range append(inside[1:], v) {
		v.Leave(nil, nil)
	}
	if got := accountOf(t, table, c).open; got != [lanes]int{} {
		t.Errorf("when all have left there are %v", got)
	}
	if got := table.Status().Refused; got != (Refused{InFlight: 3}) {
		t.Errorf("refused %+v", got)
	}
}

func TestWatchesAreLimitedOverAllStreams(t *testing.T) {
	table := newTable(t, "", Config{Limits: Limits{Watches: 3}})
	c := &caller{}
	var streams []wire.Visit
	for range 3 {
		v, err := table.Enter(c.ctx(t.Context()), pb.Watch_Watch_FullMethodName, nil)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, v)
	}
	if _, err := table.Enter(c.ctx(t.Context()), pb.Watch_Watch_FullMethodName, nil); hint(t, c, err) != watchHint {
		t.Error("streams without watches are not limited")
	}
	for _, v := range streams {
		if err := v.Watch(); err != nil {
			t.Fatal(err)
		}
	}
	if hint(t, c, streams[0].Watch()) != watchHint {
		t.Error("a fourth watch was let in")
	}
	streams[1].Unwatch()
	if err := streams[0].Watch(); err != nil {
		t.Errorf("when one has ended: %v", err)
	}
	streams[0].Leave(nil, nil) // ends both of its own
	streams[0].Unwatch()       // which may be told too late
	for i := range 2 {
		if err := streams[2].Watch(); err != nil {
			t.Errorf("watch %d when a stream has ended: %v", i, err)
		}
	}
	hint(t, c, streams[2].Watch())
	for _, v := range streams[1:] {
		v.Leave(nil, nil)
	}
	if got := accountOf(t, table, c).watching; got != 0 {
		t.Errorf("when all have left there are %d watches", got)
	}
	if got := table.Status().Refused; got != (Refused{Watches: 3}) {
		t.Errorf("refused %+v", got)
	}
}

func TestKeepalivesAndProgressRequestsCostNoRequests(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		table := newTable(t, "", Config{Limits: Limits{Requests: 1, Bytes: 1}})
		defer table.Close()
		c := &caller{}
		watch, err := table.Enter(c.ctx(t.Context()), pb.Watch_Watch_FullMethodName, nil) // the second's worth
		if err != nil {
			t.Fatal(err)
		}
		progress := marshal(t, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		for range 100 {
			v, err := table.Enter(c.ctx(t.Context()), pb.Lease_LeaseKeepAlive_FullMethodName, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Message(marshal(t, &pb.LeaseKeepAliveRequest{ID: 1})); err != nil {
				t.Fatal(err)
			}
			if err := watch.Message(progress); err != nil {
				t.Fatal(err)
			}
			v.Leave(nil, nil)
		}
		watch.Leave(nil, nil)
	})
}

// A client/v3 opens a stream to make one watch, and takes a watch that is refused for one that has ended.
func TestAStreamAndItsFirstWatchAreOneRequest(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		table := newTable(t, "", Config{Limits: Limits{Requests: 1}})
		defer table.Close()
		c := &caller{}
		for range 3 {
			stream, err := table.Enter(c.ctx(t.Context()), pb.Watch_Watch_FullMethodName, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Watch(); err != nil {
				t.Errorf("the first watch of a stream: %v", err)
			}
			stream.Unwatch()
			if err := stream.Watch(); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("the second one: %v", err)
			}
			time.Sleep(time.Second)
			if err := stream.Watch(); err != nil {
				t.Errorf("the second one, a second later: %v", err)
			}
			stream.Leave(nil, nil)
			_, err = table.Enter(c.ctx(t.Context()), pb.Watch_Watch_FullMethodName, nil)
			hint(t, c, err)
			time.Sleep(time.Second)
		}
	})
}

func TestWatchIsPossibleAtTheRateThatAClientIsToldToComeAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		table := newTable(t, twoTenants+"  limits: {requests-per-second: 1}\n", Config{Upstream: newStore(t)})
		defer table.Close()
		for range 3 {
			if err := call(t, table, bob, pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "bob"}); err != nil {
				t.Fatal(err)
			}
			stream, err := table.Enter(bob.ctx(t.Context()), pb.Watch_Watch_FullMethodName, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Watch(); err != nil {
				t.Error(err)
			}
			stream.Leave(nil, nil)
			_, err = table.Enter(bob.ctx(t.Context()), pb.Watch_Watch_FullMethodName, nil)
			time.Sleep(hint(t, bob, err))
		}
	})
}

func TestTenantSharesItsLimitsAndOthersHaveTheirOwn(t *testing.T) {
	table := newTable(t, twoTenants+"  weight: 7\ndefault: {limits: {in-flight: 1}, weight: 3}\n", Config{Upstream: newStore(t), Limits: Limits{InFlight: 1}})
	first := map[string]*caller{
		"tenant:a": {token: "good-ann"}, "tenant:b": {token: "good-bob"}, "user:eve": {token: "good-eve"}, "cn:x": {cn: "x"}, "address:10.0.0.1": {},
	}
	weights := map[string]int{"tenant:a": 1, "tenant:b": 7}
	for name, c := range first {
		v, err := table.Enter(c.ctx(t.Context()), pb.KV_Range_FullMethodName, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer v.Leave(nil, nil)
		want := 3
		if w := weights[name]; w > 0 {
			want = w
		}
		if who, weight := table.Identify(c.ctx(t.Context())); who.String() != name || weight != want {
			t.Errorf("it counts for %s of weight %d, want %s of %d", who, weight, name, want)
		}
	}
	for _, c := range []*caller{{cn: "a.local"}, {cn: "ann"}, {token: "good-eve"}, {cn: "x"}, {}} {
		_, err := table.Enter(c.ctx(t.Context()), pb.KV_Range_FullMethodName, nil)
		hint(t, c, err)
	}
}
