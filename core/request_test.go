package core

import (
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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
	entry, id := q.take()
	if n := len(q.batch(id)); entry == nil || n != 10 {
		t.Fatalf("the entry carries %d requests, want 10", n)
	}
	if entry, _ := q.take(); entry != nil {
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
		entry, id := q.take()
		if entry == nil {
			break
		}
		n := len(q.batch(id))
		if len(entry) > maxBatchBytes && n > 1 {
			t.Fatalf("%d requests in an entry of %d bytes", n, len(entry))
		}
		taken += n
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
		entry, id := q.take()
		if entry == nil {
			break
		}
		q.settle(id)
	}
	if q.bytes != 0 {
		t.Fatalf("%d bytes are counted with nothing waiting", q.bytes)
	}
}

func TestAnAbandonedBatchIsAnsweredOnce(t *testing.T) {
	q := newRequestQueue(1)
	r := newTestRequest(1)
	if err := q.add(r); err != nil {
		t.Fatal(err)
	}
	_, id := q.take()
	q.abandon(rpctypes.ErrGRPCLeaderChanged)
	if batch := q.settle(id); batch != nil {
		t.Fatal("the apply goroutine would answer it again")
	}
	if res := <-r.done; !errors.Is(res.err, rpctypes.ErrGRPCLeaderChanged) {
		t.Fatalf("got %v", res.err)
	}
}
