package differential

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
)

// stepTimeout bounds one request, and one barrier.
const stepTimeout = 15 * time.Second

// runner is one run. Only its own goroutine uses it; each side's streams have receivers of their own.
type runner struct {
	rng    *rand.Rand
	seed   uint64
	number int // of the step
	report Report
	sides  [2]*side

	// What the answers so far said, from which requests are made that are likely to meet something.
	rev         int64   // the newest revision
	compact     int64   // the compact revision
	compactDone bool    // the compaction was waited for
	leases      []int64 // that exist, in ascending order
	streams     []*streamPair
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
	r := &runner{rng: rand.New(rand.NewPCG(seed, 0)), seed: seed, rev: 1, report: Report{}}
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
	if err := r.barrier(ctx, r.streams...); err != nil {
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
		s, err := newSide(ctx, tg)
		if err != nil {
			return err
		}
		r.sides[i] = s
	}
	return nil
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
	return []kind{
		{170, r.stepRange},
		{50, r.stepRangeStream},
		{200, r.stepPut},
		{80, r.stepDelete},
		{170, r.stepTxn},
		{8, r.stepCompact},
		{40, r.stepGrant},
		{15, r.stepRevoke},
		{30, r.stepTimeToLive},
		{10, r.stepLeases},
		{30, r.stepKeepAlive},
		{70, r.stepWatch},
		{30, r.stepCancelWatch},
		{20, r.stepProgress},
		{8, r.stepOpenStream},
		{4, r.stepCloseStream},
		{30, r.stepHashKV},
		{10, r.stepMaintenance},
	}
}

type kind struct {
	weight int
	run    func(context.Context) error
}

// step makes and sends one random request.
func (r *runner) step(ctx context.Context) error {
	kinds := r.kinds()
	sum := 0
	for _, k := range kinds {
		sum += k.weight
	}
	n := r.rng.IntN(sum)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			return k.run(ctx)
		}
	}
	panic("unreachable: n is below the sum of the weights")
}

// compareStores compares what is stored: all keys, the history that is left of them, hashes of it, and leases.
func (r *runner) compareStores(ctx context.Context) error {
	everything := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	if err := r.both(ctx, everything, func(ctx context.Context, s *side) (proto.Message, error) {
		return s.kv.Range(ctx, everything)
	}); err != nil {
		return err
	}
	revs := []int64{0}
	for rev := r.rev; rev > r.compact && len(revs) < 50; rev-- {
		revs = append(revs, rev)
	}
	for _, rev := range revs {
		if err := r.hashKV(ctx, rev); err != nil {
			return err
		}
	}
	if err := r.stepLeases(ctx); err != nil {
		return err
	}
	for _, id := range r.leases {
		if err := r.timeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}); err != nil {
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

// call sends a request to one side.
type call func(context.Context, *side) (proto.Message, error)

// answer is what one side said.
type answer struct {
	resp proto.Message
	err  error
}

// ask sends a request to both sides and returns their answers. It is an error only if they differ.
func (r *runner) ask(ctx context.Context, req proto.Message, send call) (want answer, err error) {
	return r.askAs(ctx, string(req.ProtoReflect().Descriptor().Name()), req, send)
}

// askAs is ask for an RPC whose request does not tell its name.
func (r *runner) askAs(ctx context.Context, name string, req proto.Message, send call) (want answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	var answers [2]answer
	done := make(chan struct{})
	go func() {
		answers[1].resp, answers[1].err = send(ctx, r.sides[1])
		close(done)
	}()
	answers[0].resp, answers[0].err = send(ctx, r.sides[0])
	<-done
	texts := [2]string{}
	for i := range answers {
		texts[i] = answers[i].text()
	}
	r.report[name+" "+status.Code(answers[0].err).String()]++
	if texts[0] != texts[1] {
		return answers[0], fmt.Errorf("answers differ\nrequest %s:\n%s\n%s answers:\n%s\n%s answers:\n%s", name, show(req), r.sides[0].name, texts[0], r.sides[1].name, texts[1])
	}
	return answers[0], nil
}

// both is ask for requests whose answers teach nothing but the revision.
func (r *runner) both(ctx context.Context, req proto.Message, send call) error {
	_, err := r.ask(ctx, req, send)
	return err
}

// text is an answer in a form to be compared and shown.
func (a answer) text() string {
	if a.err != nil {
		return statusText(a.err)
	}
	m := proto.Clone(a.resp)
	normalize(m)
	return show(m)
}

func show(m proto.Message) string {
	// prototext adds spaces at random so that nobody compares its output with a file; within a process it is stable.
	return prototext.MarshalOptions{Multiline: true, Indent: "  "}.Format(m)
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
