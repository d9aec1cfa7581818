package crash

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	seed = flag.Uint64("seed", 0, "seed of the moments at which servers are killed; 0 for a random one")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

const writers = 6

func TestKilledMemberKeepsEveryAcknowledgedWrite(t *testing.T) {
	for _, c := range []struct {
		kind   target.Kind
		rounds int
		args   []string
	}{
		{target.Etcd37, 3, nil},                               // proves the test
		{target.Core, 20, []string{"--snapshot-count=500"}},   // so that logs are cut too
		{target.CoreOf3, 5, []string{"--snapshot-count=500"}}, // all members at once
		{target.ProxyCore, 5, nil},
		{target.ProxyEmbedded, 8, nil},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			run := &crashRun{T: t, target: targettest.Start(t, bin, c.kind, c.args...), ledger: NewLedger()}
			run.run(c.rounds)
		})
	}
}

// crashRun is one target under load.
type crashRun struct {
	*testing.T
	target *target.Target
	ledger *Ledger
}

func (r *crashRun) run(rounds int) {
	moments := targettest.Random(r, *seed)

	raw, client := NewWatcher(0), NewWatcher(0)
	watching, stopWatching := context.WithCancel(r.Context())
	var wg sync.WaitGroup
	wg.Go(func() { raw.Follow(watching, targettest.Conn(r, r.target)) })
	wg.Go(func() { client.FollowWithClient(watching, targettest.Client(r, r.target.Endpoint)) })
	defer wg.Wait()
	defer stopWatching()

	for round := 1; round <= rounds; round++ {
		r.killUnderLoad(round, moments)
		if r.Failed() {
			return
		}
	}
	tried, acknowledged := r.ledger.Size()
	r.Logf("%d keys written, %d acknowledged; the raw watch began %d times", tried, acknowledged, raw.Began())
	if acknowledged == 0 || acknowledged == tried {
		r.Errorf("%d of %d writes acknowledged: the test proves nothing", acknowledged, tried)
	}
	r.compareWatches(raw, client)
}

// pause waits for a random time. Nothing is expected to happen meanwhile: the moment when it ends is the point.
func pause(r *rand.Rand, below time.Duration) { time.Sleep(time.Duration(r.Int64N(int64(below)))) }

// killUnderLoad lets clients write for a while, kills the store, starts it again, at times killing it once more while it
// starts, and checks it.
func (r *crashRun) killUnderLoad(round int, moments *rand.Rand) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Minute)
	defer cancel()
	writing, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for id := range writers {
		conn := targettest.Conn(r, r.target)
		wg.Go(func() { r.ledger.Write(writing, conn, round*writers+id) })
	}
	pause(moments, 400*time.Millisecond)
	if err := r.target.KillStore(); err != nil {
		r.Fatal(err)
	}
	stop()
	if moments.IntN(3) == 0 {
		if err := r.target.StartStore(); err != nil {
			r.Fatal(err)
		}
		pause(moments, 50*time.Millisecond)
		if err := r.target.KillStore(); err != nil {
			r.Fatal(err)
		}
	}
	if err := r.target.RestartStore(ctx); err != nil {
		r.Fatalf("round %d: %v", round, err)
	}
	wg.Wait()
	wrong, err := r.ledger.Check(ctx, targettest.Conn(r, r.target))
	if err != nil {
		r.Fatalf("round %d: %v", round, err)
	}
	for i, w := range wrong {
		if i == 20 {
			r.Errorf("round %d: and %d more", round, len(wrong)-i)
			break
		}
		r.Errorf("round %d: %s", round, w)
	}
}

// compareWatches compares what the watches saw that lived through all crashes with what a new one sees.
func (r *crashRun) compareWatches(watchers ...*Watcher) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	conn := targettest.Conn(r, r.target)
	last, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("last")})
	if err != nil {
		r.Fatal(err)
	}
	fresh := NewWatcher(0)
	following, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { fresh.Follow(following, conn) })
	defer wg.Wait()
	defer stop()
	want, err := fresh.Take(ctx, last.Header.Revision)
	if err != nil {
		r.Fatalf("a new watch: %v", err)
	}
	for i, w := range watchers {
		name := []string{"raw watch", "watch of etcd's client"}[i]
		got, err := w.Take(ctx, last.Header.Revision)
		if err != nil {
			r.Errorf("%s: %v", name, err)
			continue
		}
		for n := range max(len(got), len(want)) {
			if n >= len(got) || n >= len(want) || got[n] != want[n] {
				r.Errorf("%s: event %d of %d differs from history, which has %d: %q, want %q",
					name, n, len(got), len(want), at(got, n), at(want, n))
				break
			}
		}
	}
}

func at(s []string, i int) string {
	if i < len(s) {
		return s[i]
	}
	return "nothing"
}
