package feed

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/coalesce"
	"weir/internal/bubble"
)

var (
	firstSeed = flag.Uint64("first-seed", 0, "the model test's first seed")
	seeds     = flag.Uint64("seeds", 300, "how many seeds the model test runs")
)

// TestWatchersSeeEveryEventOnceInOrderWhateverUpstreamDoes does at random everything that clients and upstream can do,
// and upstream's failures, and checks what each watch is sent against the list of all revisions. Each run is
// in a bubble of testing/synctest: time costs nothing, and a goroutine that is left behind is an error. What is done is
// decided by the seed, how it interleaves is not.
func TestWatchersSeeEveryEventOnceInOrderWhateverUpstreamDoes(t *testing.T) {
	runs := *seeds
	if testing.Short() {
		runs /= 6
	}
	for seed := *firstSeed; seed < *firstSeed+runs; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(child *testing.T) {
			child.Parallel()
			if t.Failed() {
				return // one failure is enough to read
			}
			bubble.Test(child, func(t *testing.T) { newModel(t, seed).run() })
		})
	}
}

// model is a Set under test between a fake cluster and fake clients.
type model struct {
	t        *testing.T
	rnd      *rand.Rand // of the goroutine that takes the steps
	faults   faults
	load     load
	began    time.Time
	cluster  *fakeCluster
	upstream *fakeUpstream
	set      *Set
	hub      *coalesce.Hub
	clients  []*modelClient
	names    int
	values   int

	mu        sync.Mutex // guards the fields below; nothing else is locked under it
	log       []string
	failed    bool
	epochs    []*epoch // the cluster's histories; the last is the current one
	settled   int      // which of them the Set has certainly noticed
	compacted int64    // the highest revision ever
	auth      bool     // has ever been on
}

// faults says what may happen to upstream in a run.
type faults struct{ cuts, restores, auth bool }

// load says what is special about the writes of a run.
type load int

const (
	ordinary load = iota
	large         // values are so large that history is read in parts
	lopsided      // nearly all writes are to keys that nobody watches, beside many that are
)

func newModel(t *testing.T, seed uint64) *model {
	rnd := rand.New(rand.NewPCG(seed, 1))
	m := &model{t: t, rnd: rnd, began: time.Now()}
	switch seed % 4 {
	case 1:
		m.faults = faults{cuts: true}
	case 2:
		m.faults = faults{cuts: true, restores: true}
	case 3:
		m.faults = faults{cuts: true, auth: true}
	}
	switch seed / 4 % 8 {
	case 3:
		m.load = large
	case 5:
		m.load = lopsided
	}
	pick := func(from ...int) int { return from[rnd.IntN(len(from))] }
	limits := fakeLimits{
		batchRevisions: pick(1, 3, 10), buffer: pick(1, 4, 16), window: pick(1, 4), fragment: pick(300, 2000),
		delay: time.Duration(pick(0, 1, 20)) * time.Millisecond,
	}
	if m.load == lopsided { // or it would not catch up in time
		limits.batchRevisions, limits.delay = 200, 0
	}
	m.cluster = newFakeCluster(rand.New(rand.NewPCG(seed, 2)), pick(1, 3, 3), limits)
	m.epochs = []*epoch{{past: m.cluster.history()}}
	for range rnd.IntN(30) {
		m.write()
	}
	m.upstream = newFakeUpstream(m.cluster)
	m.set = NewSet(Config{
		Upstream:     m.upstream,
		Fixed:        [][]string{nil, nil, {"a/"}, {""}}[rnd.IntN(4)],
		HistoryBytes: pick(1, 5_000, 50_000, 1<<20),
		Logger:       slog.New(slog.NewTextHandler(modelLog{m}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	m.hub = m.set.Hub()
	return m
}

func (m *model) run() {
	for range 20 + m.rnd.IntN(150) {
		m.step()
		switch m.rnd.IntN(10) {
		case 0, 1, 2:
			synctest.Wait()
		case 3, 4:
			time.Sleep(time.Duration(m.rnd.IntN(20)) * time.Millisecond)
		case 5:
			time.Sleep(time.Duration(m.rnd.IntN(1000)) * time.Millisecond)
		case 6:
			if m.rnd.IntN(20) == 0 {
				m.settle()
			}
		}
		if m.hasFailed() {
			break
		}
	}
	if !m.hasFailed() {
		m.settle()
	}
	for _, c := range m.clients {
		c.close()
	}
	if !m.hasFailed() {
		m.checkNothingLeft()
	}
	m.set.Close()
	m.upstream.close()
	m.cluster.close()
}

// fail records the first failure, with what led to it.
func (m *model) fail(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed {
		return
	}
	m.failed = true
	const last = 60
	m.t.Errorf("%s\n%s: %s", strings.Join(m.log[max(0, len(m.log)-last):], "\n"), time.Since(m.began), fmt.Sprintf(format, args...))
}

func (m *model) hasFailed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

func (m *model) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, fmt.Sprintf("%s: ", time.Since(m.began))+fmt.Sprintf(format, args...))
}

// modelLog takes what the Set logs.
type modelLog struct{ m *model }

func (l modelLog) Write(b []byte) (int, error) {
	if strings.Contains(string(b), errAuthOn.Error()) {
		return len(b), nil // several times a second
	}
	_, text, _ := strings.Cut(strings.TrimSpace(string(b)), " ") // without its time
	l.m.note("    %s", text)
	return len(b), nil
}

var _ io.Writer = modelLog{}

// epochsNow returns all epochs and the index of the first that the Set may be in.
func (m *model) epochsNow() (settled int, epochs []*epoch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settled, m.epochs
}

func (m *model) everCompacted() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.compacted
}

func (m *model) hadAuth() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.auth
}
