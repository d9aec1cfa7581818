package differential

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
)

// stepTimeout bounds one request, and one barrier.
const stepTimeout = 15 * time.Second

// runner is one run. Only its own goroutine uses it; each side's streams have receivers of their own.
type runner struct {
	rng    *rand.Rand
	number int // of the step
	report Report
	sides  [2]*side
	who    *identity // that asks in this step

	// What the answers so far said, from which requests are made that are likely to meet something.
	rev         int64   // the newest revision
	compact     int64   // the compact revision
	compactDone bool    // the compaction was waited for
	leases      []int64 // that exist, in ascending order
	corrupt     bool    // there is an alarm that says so
	auth        auth
	leaders     []*v3electionpb.LeaderKey // won at some time

	streams   []*streamPair
	waiters   []*waiter
	observers []*observer
}

// Report counts what was compared: answers by request and status, and events. A sequence that meets nothing but errors
// would prove little.
type Report map[string]int

func (c Report) String() string {
	var lines []string
	for what, n := range c {
		lines = append(lines, fmt.Sprintf("%6d %s", n, what))
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[6:], b[6:]) })
	return strings.Join(lines, "\n")
}

// Run sends steps requests, made from seed, to both servers, which must be empty and alike in version. The error is the
// first difference: the seed, the step, the request, and both answers.
func Run(ctx context.Context, want, got *target.Target, seed uint64, steps int) (Report, error) {
	r := &runner{rng: rand.New(rand.NewPCG(seed, 0)), rev: 1, report: Report{}, auth: auth{passwords: map[string]string{}}}
	if err := r.run(ctx, want, got, steps); err != nil {
		return r.report, fmt.Errorf("seed %d, step %d: %w", seed, r.number, err)
	}
	return r.report, nil
}

func (r *runner) run(ctx context.Context, want, got *target.Target, steps int) error {
	if err := r.connect(ctx, want, got); err != nil {
		return err
	}
	defer r.disconnect()
	for r.number = 1; r.number <= steps; r.number++ {
		if err := r.step(ctx); err != nil {
			return err
		}
	}
	if err := r.endStreams(ctx); err != nil {
		return err
	}
	if err := r.compareStores(ctx); err != nil {
		return err
	}
	r.disconnect()
	if err := restart(ctx, want, got); err != nil {
		return err
	}
	if err := r.connect(ctx, want, got); err != nil {
		return err
	}
	if err := r.compareStores(ctx); err != nil {
		return fmt.Errorf("after both were killed and started again: %w", err)
	}
	return nil
}

func (r *runner) connect(ctx context.Context, targets ...*target.Target) error {
	for i, tg := range targets {
		s, err := newSide(i, tg)
		if err != nil {
			return err
		}
		if r.sides[i] != nil { // members keep their ids
			s.self, s.learner = r.sides[i].self, r.sides[i].learner
		}
		r.sides[i] = s
	}
	if err := r.login(ctx); err != nil {
		return err
	}
	if err := r.refresh(ctx); err != nil {
		return err
	}
	return r.openPings(ctx)
}

func (r *runner) disconnect() {
	for _, p := range r.streams {
		p.close()
	}
	r.streams = nil
	for _, s := range r.sides {
		if s != nil {
			s.close()
		}
	}
}

func restart(ctx context.Context, targets ...*target.Target) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, tg := range targets {
		if err := tg.KillStore(); err != nil {
			return err
		}
		if err := tg.RestartStore(ctx); err != nil {
			return err
		}
	}
	return nil
}

// kinds is every kind of step with its weight.
func (r *runner) kinds() []kind {
	return append([]kind{
		{30, r.stepRangeStream},
		{8, r.stepCompact},
		{70, r.stepWatch},
		{30, r.stepCancelWatch},
		{20, r.stepProgress},
		{8, r.stepOpenStream},
		{4, r.stepCloseStream},
		{20, r.stepHashKV},
		{12, r.stepMaintenance},
		{3, r.stepAlarm},
		{20, r.stepCluster},
		{140, r.stepAuth},
		{60, r.stepLock},
		{10, r.stepWithdraw},
		{4, r.stepObserve},
		{20, r.stepMalformed},
		{4, r.stepWatchJSON},
		{8, r.stepKeepAliveJSON},
	}, r.plainKinds()...)
}

// plainKinds are the steps that are one request and one answer, and for which nothing need be writable.
func (r *runner) plainKinds() []kind {
	return []kind{
		{170, r.stepRange},
		{200, r.stepPut},
		{80, r.stepDelete},
		{170, r.stepTxn},
		{40, r.stepGrant},
		{15, r.stepRevoke},
		{30, r.stepTimeToLive},
		{10, r.stepLeases},
		{30, r.stepKeepAlive},
	}
}

type kind struct {
	weight int
	run    func(context.Context) error
}

// step makes and sends one random request, and waits for what it sets off.
func (r *runner) step(ctx context.Context) error {
	r.who = r.anyone()
	if err := r.oneOf(r.kinds()).run(ctx); err != nil {
		return err
	}
	return r.settle(ctx)
}

func (r *runner) oneOf(kinds []kind) kind {
	sum := 0
	for _, k := range kinds {
		sum += k.weight
	}
	n := r.rng.IntN(sum)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k
		}
	}
	panic("unreachable: n is below the sum of the weights")
}

// asRoot makes who asks one that may everything, until the returned function is called.
func (r *runner) asRoot() (end func()) {
	before := r.who
	r.who = r.auth.root
	return func() { r.who = before }
}

// refresh reads the newest revision. It does so over the connection, which thereby learns of writes over the gateway.
func (r *runner) refresh(ctx context.Context) error {
	defer r.asRoot()()
	newest := &pb.RangeRequest{Key: []byte(keys[0]), CountOnly: true}
	answers, err := r.exchange(ctx, nameOf(newest), show(newest), func(ctx context.Context, s *side) answer { return s.call(ctx, r.who, newest) })
	if err != nil {
		return err
	}
	if answers[0].err != nil {
		return fmt.Errorf("read the revision: %w", answers[0].err)
	}
	r.rev = headerOf(answers[0].resp).Revision
	return nil
}

// compareStores compares what is stored: all keys, the history that is left of them, hashes of it, leases, members, alarms,
// users and roles.
func (r *runner) compareStores(ctx context.Context) error {
	defer r.asRoot()()
	revs := []int64{0}
	for rev := r.rev; rev > r.compact && len(revs) < 50; rev-- {
		revs = append(revs, rev)
	}
	requests := []proto.Message{
		&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}},
		&pb.LeaseLeasesRequest{}, &pb.MemberListRequest{Linearizable: true},
		&pb.AlarmRequest{}, &pb.StatusRequest{}, &pb.AuthStatusRequest{}, &pb.AuthUserListRequest{}, &pb.AuthRoleListRequest{},
	}
	for _, rev := range revs {
		requests = append(requests, &pb.HashKVRequest{Revision: rev})
	}
	for _, id := range r.leases {
		requests = append(requests, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	}
	for _, name := range users {
		requests = append(requests, &pb.AuthUserGetRequest{Name: name})
	}
	for _, name := range roles {
		requests = append(requests, &pb.AuthRoleGetRequest{Role: name})
	}
	for _, req := range requests {
		if err := r.both(ctx, req); err != nil {
			return err
		}
	}
	history, err := r.openStream(ctx)
	if err != nil {
		return err
	}
	if err := r.watch(ctx, history, &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: r.compact + 1, PrevKv: true}); err != nil {
		return err
	}
	return r.barrier(ctx, history)
}

// chance is true once in n.
func (r *runner) chance(n int) bool { return r.rng.IntN(n) == 0 }

func pick[T any](r *runner, from ...T) T { return from[r.rng.IntN(len(from))] }

func (r *runner) addLease(id int64) {
	if i, found := slices.BinarySearch(r.leases, id); !found {
		r.leases = slices.Insert(r.leases, i, id)
	}
}

func (r *runner) removeLease(id int64) {
	if i, found := slices.BinarySearch(r.leases, id); found {
		r.leases = slices.Delete(r.leases, i, i+1)
	}
}
