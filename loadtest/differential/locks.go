package differential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/protobuf/proto"
)

// Locks and elections are one thing to etcd: who waits has a key below the name, and has won when none is left that was
// created before. Here both use one name, whose keys other steps write and delete too.
const (
	lockName   = "l"
	lockPrefix = lockName + "/"
	lockEnd    = lockName + "0"
)

// lockLeases are those that wait. Each has one key: lockPrefix and its id.
// The lease 0 is left to others: with that the server makes one, and a key, of its own choice.
var lockLeases = []int64{1, 2, 3, 4}

const maxWaiters = 3

// waiter is a Lock or Campaign that is not answered yet, on both sides.
type waiter struct {
	req     proto.Message
	key     string
	created int64 // revision of its key
	lost    bool  // its key is gone
	cancel  context.CancelFunc
	answers [2]chan answer
}

// waiting are the keys below the lock's name, the oldest first.
func (r *runner) waiting(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	a := r.sides[0].call(ctx, r.auth.root, &pb.RangeRequest{Key: []byte(lockPrefix), RangeEnd: []byte(lockEnd), SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND})
	if a.err != nil {
		return nil, fmt.Errorf("read who waits: %w", a.err)
	}
	return a.resp.(*pb.RangeResponse).Kvs, nil
}

// stepLock sends a request of the Lock or Election service.
func (r *runner) stepLock(ctx context.Context) error {
	if r.chance(2) {
		if err := r.both(ctx, r.lockRequest()); err != nil {
			return err
		}
		return r.refresh(ctx)
	}
	lease := pick(r, lockLeases...)
	_, exists := slices.BinarySearch(r.leases, lease)
	if !exists && !r.chance(8) {
		if err := r.grant(ctx, &pb.LeaseGrantRequest{ID: lease, TTL: shortest}); err != nil {
			return err
		}
		_, exists = slices.BinarySearch(r.leases, lease)
	}
	var req proto.Message = &v3lockpb.LockRequest{Name: []byte(lockName), Lease: lease}
	if r.chance(2) {
		if r.who != nil { // of one who may write his key but not read the others', etcd leaves the key behind
			r.who = r.auth.root
		}
		req = &v3electionpb.CampaignRequest{Name: []byte(lockName), Lease: lease, Value: r.value()}
	}
	key := fmt.Sprintf("%s%x", lockPrefix, lease)
	before, err := r.waiting(ctx)
	if err != nil {
		return err
	}
	own := slices.IndexFunc(before, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) == key })
	switch {
	case own > 0:
		return nil // it waits, or would, and nothing would tell when it has begun
	case own == 0 || len(before) == 0 || !exists:
		return r.acquire(ctx, req)
	case r.auth.enabled || len(r.waiters) >= maxWaiters:
		return nil
	default:
		return r.await(ctx, req, key)
	}
}

// acquire sends a Lock or Campaign that is answered at once.
func (r *runner) acquire(ctx context.Context, req proto.Message) error {
	answers, err := r.ask(ctx, req)
	if err != nil {
		return err
	}
	if won, ok := answers[0].resp.(*v3electionpb.CampaignResponse); ok {
		r.leaders = append(r.leaders, won.Leader)
	}
	return r.refresh(ctx)
}

// await sends a Lock or Campaign that waits, and returns when it does.
func (r *runner) await(ctx context.Context, req proto.Message, key string) error {
	waitCtx, cancel := context.WithCancel(ctx)
	w := &waiter{req: req, key: key, cancel: cancel}
	for i, s := range r.sides {
		w.answers[i] = make(chan answer, 1)
		go func() { w.answers[i] <- s.call(waitCtx, nil, req) }()
	}
	kvs, err := r.poll(ctx, key, func(kvs []*mvccpb.KeyValue) bool { return len(kvs) == 1 })
	if err != nil {
		cancel()
		for i, s := range r.sides {
			err = fmt.Errorf("%w\n%s answers:\n%s", err, s.name, s.text(<-w.answers[i]))
		}
		return fmt.Errorf("does not begin to wait: %w\nrequest:\n%s", err, show(req))
	}
	w.created = kvs[0].CreateRevision
	r.waiters = append(r.waiters, w)
	return r.refresh(ctx)
}

// poll reads a key on both sides until what is there is as wanted: nothing tells when a request has come to wait, or has
// gone.
func (r *runner) poll(ctx context.Context, key string, wanted func([]*mvccpb.KeyValue) bool) ([]*mvccpb.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var kvs []*mvccpb.KeyValue
	for _, s := range r.sides {
		for {
			a := s.call(ctx, r.auth.root, &pb.RangeRequest{Key: []byte(key)})
			if a.err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, a.err)
			}
			if kvs = a.resp.(*pb.RangeResponse).Kvs; wanted(kvs) {
				break
			}
			<-tick.C
		}
	}
	return kvs, nil
}

// lockRequest is one that is answered at once.
func (r *runner) lockRequest() proto.Message {
	leader := &v3electionpb.LeaderKey{Name: []byte(lockName), Key: r.lockKey(), Rev: r.rev, Lease: pick(r, lockLeases...)}
	switch {
	case r.chance(20):
		leader = nil
	case len(r.leaders) > 0 && !r.chance(4):
		leader = r.leaders[max(0, len(r.leaders)-1-r.rng.IntN(3))]
	}
	switch r.rng.IntN(5) {
	case 0:
		return &v3electionpb.ProclaimRequest{Leader: leader, Value: r.value()}
	case 1:
		return &v3electionpb.ResignRequest{Leader: leader}
	case 2:
		return &v3electionpb.LeaderRequest{Name: []byte(pick(r, lockName, lockName, "nobody's"))}
	default:
		key := r.lockKey()
		if r.chance(8) {
			key = r.badKey()
		}
		return &v3lockpb.UnlockRequest{Key: key}
	}
}

func (r *runner) lockKey() []byte {
	return fmt.Appendf(nil, "%s%x", lockPrefix, pick(r, lockLeases...))
}

// settle waits for what the step has set off, and compares it: answers to those that waited, and what observers see.
func (r *runner) settle(ctx context.Context) error {
	if len(r.waiters) == 0 && len(r.observers) == 0 {
		return nil
	}
	kvs, err := r.waiting(ctx)
	if err != nil {
		return err
	}
	for _, w := range slices.Clone(r.waiters) {
		w.lost = !slices.ContainsFunc(kvs, func(kv *mvccpb.KeyValue) bool { return kv.CreateRevision == w.created })
		if len(kvs) > 0 && kvs[0].CreateRevision < w.created {
			continue
		}
		if err := r.end(ctx, w); err != nil {
			return err
		}
	}
	if len(kvs) == 0 {
		return nil
	}
	for _, o := range r.observers {
		if err := r.observe(ctx, o, kvs[0]); err != nil {
			return err
		}
	}
	return nil
}

// end compares the answers to a Lock or Campaign whose turn it is. Those to one that has lost its key meanwhile are not
// compared: weir tells it that at once. etcd does when its turn has come, unless it is an election, or somebody has made the
// key again: then it says that it has won.
func (r *runner) end(ctx context.Context, w *waiter) error {
	answers, err := r.exchange(ctx, "waiting "+nameOf(w.req), show(w.req), func(ctx context.Context, s *side) answer {
		select {
		case a := <-w.answers[s.index]:
			if w.lost {
				return answer{}
			}
			return a
		case <-ctx.Done():
			return answer{err: fmt.Errorf("no answer although its turn has come: %w", ctx.Err())}
		}
	})
	w.cancel()
	r.waiters = slices.DeleteFunc(r.waiters, func(other *waiter) bool { return other == w })
	if won, ok := answers[0].resp.(*v3electionpb.CampaignResponse); ok {
		r.leaders = append(r.leaders, won.Leader)
	}
	return err
}

// stepWithdraw has a client that waits give up.
func (r *runner) stepWithdraw(ctx context.Context) error {
	if len(r.waiters) == 0 {
		return nil
	}
	w := pick(r, r.waiters...)
	if w.lost {
		return nil // nothing would tell when the server has noticed
	}
	return r.withdraw(ctx, w)
}

// withdraw cancels a waiting request, and returns when its key has gone.
func (r *runner) withdraw(ctx context.Context, w *waiter) error {
	for i, s := range r.sides {
		select {
		case a := <-w.answers[i]:
			return fmt.Errorf("%s answers although it is not its turn: %s\nrequest:\n%s", s.name, s.text(a), show(w.req))
		default:
		}
	}
	w.cancel()
	for i := range r.sides {
		<-w.answers[i]
	}
	r.waiters = slices.DeleteFunc(r.waiters, func(other *waiter) bool { return other == w })
	if _, err := r.poll(ctx, w.key, func(kvs []*mvccpb.KeyValue) bool { return len(kvs) == 0 }); err != nil {
		return fmt.Errorf("the key of one that has given up remains: %w", err)
	}
	return r.refresh(ctx)
}

// endWaiters has all clients that wait, or observe, give up, and those come to their turn that cannot.
func (r *runner) endWaiters(ctx context.Context) error {
	for _, o := range r.observers {
		o.close()
	}
	r.observers = nil
	for _, w := range slices.Clone(r.waiters) {
		if w.lost {
			continue
		}
		if err := r.withdraw(ctx, w); err != nil {
			return err
		}
	}
	if len(r.waiters) == 0 {
		return nil
	}
	if err := r.write(ctx, &pb.DeleteRangeRequest{Key: []byte(lockPrefix), RangeEnd: []byte(lockEnd)}); err != nil {
		return err
	}
	return r.settle(ctx)
}

// observer is an Observe on both sides.
type observer struct {
	streams [2]v3electionpb.Election_ObserveClient
	close   context.CancelFunc
	last    string // the leader that was seen last, with its revision
}

func (r *runner) stepObserve(ctx context.Context) error {
	if len(r.observers) > 0 || r.auth.enabled { // its token may become void, of which etcd says nothing
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &observer{close: cancel}
	for i, s := range r.sides {
		stream, err := s.election.Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte(lockName)})
		if err != nil {
			cancel()
			return fmt.Errorf("observe %s: %w", s.name, err)
		}
		o.streams[i] = stream
	}
	r.observers = append(r.observers, o)
	return nil
}

// observe compares what an observer sees of a new leader, or of a new value of the old one.
func (r *runner) observe(ctx context.Context, o *observer, leader *mvccpb.KeyValue) error {
	now := fmt.Sprintf("%s at revision %d", leader.Key, leader.ModRevision)
	if o.last == now {
		return nil
	}
	o.last = now
	_, err := r.exchange(ctx, "observed leader", now, func(ctx context.Context, s *side) answer {
		defer context.AfterFunc(ctx, o.close)()
		resp, err := o.streams[s.index].Recv()
		switch {
		case err == nil && string(resp.Kv.GetKey()) != string(leader.Key):
			return answer{err: errors.New(strings.TrimSpace("another leader is seen: " + show(resp)))}
		case err != nil:
			return answer{err: err}
		}
		return answer{resp: resp}
	})
	return err
}
