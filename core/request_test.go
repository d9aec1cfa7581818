package core

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/consensus"
)

func newTestRequest(size int) *request {
	return &request{kind: kindPut, payload: make([]byte, size), done: make(chan result, 1)}
}

func TestRequestsThatWaitShareOneEntry(t *testing.T) {
	q := newRequestQueue(1)
	for range 10 {
		if err := q.add(newTestRequest(100)); err != nil {
			t.Fatal(err)
		}
	}
	entry, id := q.take(consensus.Role{Leads: true, Term: 1})
	if n := len(q.batch(id)); entry == nil || n != 10 {
		t.Fatalf("the entry carries %d requests, want 10", n)
	}
	if entry, _ := q.take(consensus.Role{Leads: true, Term: 1}); entry != nil {
		t.Fatal("a second entry without requests")
	}
}

func TestEntriesAreBoundedInBytes(t *testing.T) {
	q := newRequestQueue(1)
	for range 5 {
		if err := q.add(newTestRequest(maxBatchBytes / 2)); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.add(newTestRequest(3 * maxBatchBytes)); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for {
		entry, id := q.take(consensus.Role{Leads: true, Term: 1})
		if entry == nil {
			break
		}
		n := len(q.batch(id))
		if len(entry) > maxBatchBytes && n > 1 {
			t.Fatalf("%d requests in an entry of %d bytes", n, len(entry))
		}
		taken += n
		q.settle(id)
	}
	if taken != 6 {
		t.Fatalf("took %d requests of 6", taken)
	}
}

func TestWhatWaitsIsBoundedInBytes(t *testing.T) {
	q := newRequestQueue(1)
	var err error
	added := 0
	for ; err == nil && added < 1000; added++ {
		err = q.add(newTestRequest(1 << 20))
	}
	if !errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests) {
		t.Fatalf("after %d MiB: %v", added, err)
	}
	for {
		entry, id := q.take(consensus.Role{Leads: true, Term: 1})
		if entry == nil {
			break
		}
		q.settle(id)
	}
	if q.bytes != 0 {
		t.Fatalf("%d bytes are counted with nothing waiting", q.bytes)
	}
}

func TestABatchOfAnEarlierTermIsAnsweredOnce(t *testing.T) {
	q := newRequestQueue(1)
	r := newTestRequest(1)
	if err := q.add(r); err != nil {
		t.Fatal(err)
	}
	_, id := q.take(consensus.Role{Leads: true, Term: 3})
	q.superseded(3)
	if q.batch(id) == nil {
		t.Fatal("a batch was given up before a later term has shown that it is lost")
	}
	q.superseded(4)
	if batch := q.settle(id); batch != nil {
		t.Fatal("the apply goroutine would answer it again")
	}
	if res := <-r.done; !errors.Is(res.err, rpctypes.ErrGRPCLeaderChanged) || !res.lost {
		t.Fatalf("got %v", res)
	}
}

func TestABatchThatRaftDoesNotTakeWaitsBeforeAllOthers(t *testing.T) {
	q := newRequestQueue(1)
	first, second := newTestRequest(1), newTestRequest(2)
	for _, r := range []*request{first, second} {
		if err := q.add(r); err != nil {
			t.Fatal(err)
		}
		if r == first {
			_, id := q.take(consensus.Role{Term: 1, Leader: 2})
			defer q.settle(id)
			q.putBack(id)
		}
	}
	_, id := q.take(consensus.Role{Term: 1, Leader: 2})
	if got := q.settle(id); len(got) != 2 || got[0] != first {
		t.Fatalf("took %v", got)
	}
	if q.bytes != 0 {
		t.Fatalf("%d bytes are counted with nothing waiting", q.bytes)
	}
}

func TestABatchThatIsLostBeforeRaftRefusesItIsAnsweredOnce(t *testing.T) {
	q := newRequestQueue(1)
	r := newTestRequest(1)
	if err := q.add(r); err != nil {
		t.Fatal(err)
	}
	_, id := q.take(consensus.Role{Leads: true, Term: 1})
	q.superseded(2)
	q.putBack(id)
	if res := <-r.done; !res.lost {
		t.Errorf("the result is %+v", res)
	}
	if entry, _ := q.take(consensus.Role{Leads: true, Term: 2}); entry != nil || q.pending() != 0 {
		t.Error("it waits again")
	}
}

func TestAnExpiredLeaseIsRevokedOnlyUnderTheLeaderThatFoundIt(t *testing.T) {
	for _, role := range []consensus.Role{{Leads: true, Term: 3}, {Term: 2, Leader: 7}} {
		q := newRequestQueue(1)
		r := newTestRequest(1)
		r.under = 2
		if err := q.add(r); err != nil {
			t.Fatal(err)
		}
		if entry, _ := q.take(role); entry != nil || q.bytes != 0 {
			t.Errorf("as %+v: proposed, or %d bytes still counted", role, q.bytes)
		}
	}
}

func TestRequestsThatWereGivenUpAreNeverProposed(t *testing.T) {
	leads := consensus.Role{Leads: true, Term: 1}
	for name, dropThem := range map[string]func(*requestQueue){
		"when others are proposed": func(*requestQueue) {},
		"as time passes":           func(q *requestQueue) { q.expire(time.Hour, time.Hour) },
		"after raft took nothing": func(q *requestQueue) {
			_, id := q.take(leads)
			q.putBack(id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			q := newRequestQueue(1)
			given, wanted := newTestRequest(1000), newTestRequest(100)
			for _, r := range []*request{given, wanted} {
				if err := q.add(r); err != nil {
					t.Fatal(err)
				}
			}
			given.abandoned.Store(true)
			dropThem(q)
			_, id := q.take(leads)
			if got := q.settle(id); len(got) != 1 || got[0] != wanted {
				t.Errorf("the entry carries %d requests, want the one that is waited for", len(got))
			}
			if left := q.pending(); left != 0 {
				t.Errorf("%d bytes are counted still", left)
			}
		})
	}
}

// taken is how many batches q gives one after another, each of a request that has just come.
func taken(t *testing.T, q *requestQueue) (ids []uint64) {
	t.Helper()
	for range 100 {
		if err := q.add(newTestRequest(1)); err != nil {
			t.Fatal(err)
		}
		entry, id := q.take(consensus.Role{Term: 1, Leader: 2})
		if entry == nil {
			return ids
		}
		ids = append(ids, id)
	}
	return ids
}

// isAwake tells whether run would be told that something may be taken.
func (q *requestQueue) isAwake() bool {
	select {
	case <-q.wake:
		return true
	default:
		return false
	}
}

func TestFewBatchesAreOnTheirWay(t *testing.T) {
	for name, c := range map[string]struct {
		idle bool
		want int
	}{"while the log is busy": {false, 1}, "while it has nothing to do": {true, maxBatches}} {
		t.Run(name, func(t *testing.T) {
			q := newRequestQueue(1)
			q.logIs(c.idle)
			ids := taken(t, q)
			if len(ids) != c.want {
				t.Fatalf("%d batches are on their way, want %d", len(ids), c.want)
			}
			q.isAwake()
			q.signalWaiting()
			if q.isAwake() {
				t.Error("run is told that there is something to take")
			}
			q.settle(ids[0])
			if !q.isAwake() {
				t.Error("run is not told that one has come back")
			}
			if more := taken(t, q); len(more) != 1 {
				t.Errorf("after one has come back %d are taken", len(more))
			}
		})
	}
}

func TestALogThatHasNothingToDoLetsMoreBatchesGo(t *testing.T) {
	q := newRequestQueue(1)
	taken(t, q)
	q.isAwake()
	if q.logIs(true); !q.isAwake() {
		t.Error("run is not told")
	}
	if more := taken(t, q); len(more) != maxBatches-1 {
		t.Errorf("%d more are taken", len(more))
	}
}

// What is lost on its way does not show for seconds. Who comes later does not wait for that.
func TestBatchesThatMayBeLostHoldNobodyUp(t *testing.T) {
	for name, lose := range map[string]func(*requestQueue){
		"with the leader, or with messages to it": (*requestQueue).lostTouch,
		"as time passes": func(q *requestQueue) { q.expire(time.Hour, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			q := newRequestQueue(1)
			lost := taken(t, q)
			q.isAwake()
			if lose(q); !q.isAwake() {
				t.Error("run is not told that the next one may go")
			}
			if more := taken(t, q); len(more) != 1 {
				t.Errorf("%d more are taken", len(more))
			}
			if q.batch(lost[0]) == nil {
				t.Error("it is forgotten, and may be applied")
			}
			q.settle(lost[0]) // it was late
			if more := taken(t, q); len(more) != 0 {
				t.Errorf("after the late one has come back %d more are taken", len(more))
			}
		})
	}
}
