package feed

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/coalesce"
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
			synctest.Test(child, func(t *testing.T) { newModel(t, seed).run() })
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

// step does one thing at random.
func (m *model) step() {
	switch n := m.rnd.IntN(100); {
	case n < 30:
		for range 1 + m.rnd.IntN(1+m.rnd.IntN(20)) {
			m.write()
		}
	case n < 55:
		m.watch()
	case n < 63:
		m.cancel()
	case n < 66:
		m.compact()
	case n < 76:
		if c := m.client(); c != nil {
			c.drain(m.rnd.IntN(10))
		}
	case n < 82:
		if c := m.client(); c != nil {
			c.requestProgress()
		}
	case n < 86:
		if c := m.client(); c != nil {
			c.stream.NotifyProgress()
		}
	case n < 88:
		if c := m.client(); c != nil {
			m.note("client %d closes", c.name)
			m.clients = slices.DeleteFunc(m.clients, func(d *modelClient) bool { return d == c })
			c.close()
		}
	case m.load == lopsided && n < 89:
		m.storm()
	case m.faults.cuts && n < 97:
		m.cut()
	case m.faults.restores && n < 98:
		m.restore()
	case m.faults.auth && n < 98:
		on := m.rnd.IntN(2) == 0
		m.note("auth %v", on)
		m.mu.Lock()
		m.auth = m.auth || on
		m.mu.Unlock()
		m.cluster.setAuth(on)
	}
}

// Keys are below a few prefixes, most of them below one, so that feeds widen.
func (m *model) key() string {
	if m.load == lopsided && m.rnd.IntN(2) == 0 {
		return fmt.Sprintf("s/%02d", m.rnd.IntN(20))
	}
	switch m.rnd.IntN(6) {
	case 0:
		return fmt.Sprintf("b/c/%d", m.rnd.IntN(5))
	case 1:
		return fmt.Sprintf("b/d/%d", m.rnd.IntN(5))
	case 2:
		return "z"
	}
	return fmt.Sprintf("a/%02d", m.rnd.IntN(30))
}

func (m *model) write() {
	var ops []fakeOp
	for range 1 + m.rnd.IntN(1+m.rnd.IntN(6)) {
		key := m.key()
		if slices.ContainsFunc(ops, func(o fakeOp) bool { return o.key == key }) {
			continue
		}
		op := fakeOp{key: key}
		if m.rnd.IntN(4) > 0 {
			m.values++
			size := 10
			switch n := m.rnd.IntN(10); {
			case n == 0:
				size = m.rnd.IntN(3000)
			case n < 3 && m.load == large:
				size = m.rnd.IntN(60_000)
			}
			op.value = fmt.Appendf(nil, "%d %*s", m.values, size, "")
		}
		ops = append(ops, op)
	}
	m.cluster.write(ops...)
}

// storm writes so much below the prefix of many watched keys that one watch for all of them does not pay.
func (m *model) storm() {
	c := m.client()
	if c == nil {
		return
	}
	m.note("storm")
	for i := range widenFrom {
		c.watch(coalesce.Watch{Key: fmt.Appendf(nil, "s/%02d", i)})
	}
	time.Sleep(time.Second)
	for i := range 3300 {
		m.cluster.write(fakeOp{"s/unwatched", fmt.Appendf(nil, "%d", i)})
	}
	time.Sleep(3 * time.Second)
}

func (m *model) compact() {
	head := m.cluster.head()
	rev := max(firstRevision, head-m.rnd.Int64N(30))
	m.note("compact at %d of %d", rev, head)
	m.mu.Lock()
	m.compacted = max(m.compacted, rev)
	m.mu.Unlock()
	m.cluster.compact(rev)
}

// cut does something to upstream.
func (m *model) cut() {
	members := m.cluster.members
	one := members[m.rnd.IntN(len(members))]
	coin := m.rnd.IntN(2) == 0
	switch m.rnd.IntN(8) {
	case 0:
		m.note("%s is killed", one.name)
		one.kill()
	case 1:
		m.note("all members are started")
		for _, f := range members {
			f.start()
		}
	case 2:
		m.note("all members are killed")
		for _, f := range members {
			f.kill()
		}
		if coin {
			for _, f := range members {
				f.start()
			}
		}
	case 3:
		m.note("%s is isolated: %v", one.name, coin)
		one.set(func() { one.isolated = coin })
	case 4:
		m.note("%s applies nothing: %v", one.name, coin)
		one.set(func() { one.stuck = coin })
	case 5:
		m.upstream.mu.Lock()
		conn := m.upstream.current
		m.upstream.mu.Unlock()
		if conn == nil {
			return
		}
		m.note("connection to %s is cut, silently: %v", conn, coin)
		if coin {
			conn.halfOpen()
		} else {
			m.cluster.mu.Lock()
			conn.end()
			m.cluster.mu.Unlock()
		}
	case 6:
		m.upstream.mu.Lock()
		if n := len(m.upstream.conns); n > 0 {
			conn := m.upstream.conns[m.rnd.IntN(n)]
			m.note("%s is preferred", conn)
			m.upstream.choose(conn)
		}
		m.upstream.mu.Unlock()
	case 7:
		m.note("a leader is elected")
		m.cluster.elect()
	}
}

// restore replaces the cluster by an older backup, which may have got further than the cluster was.
func (m *model) restore() {
	head := m.cluster.head()
	rev := firstRevision + m.rnd.Int64N(head)
	kind := backup(m.rnd.IntN(3))
	m.note("restored at %d of %d, kind %d", rev, head, kind)
	m.cluster.restore(rev, kind)
	_, epochs := m.epochsNow()
	next := &epoch{n: len(epochs), past: m.cluster.history()}
	m.mu.Lock()
	m.epochs = append(slices.Clip(m.epochs), next)
	m.mu.Unlock()
	for _, c := range m.clients {
		c.mu.Lock()
		clear(c.asked) // revisions of the old cluster say nothing
		clear(c.dropped)
		for _, w := range c.watches {
			if kind == sameTerm && w.live() && w.told <= rev { // then it may go on
				w.epochs = append(slices.Clip(w.epochs), next)
			}
		}
		c.mu.Unlock()
	}
	for _, f := range m.cluster.members {
		f.start()
	}
	if kind == sameTerm {
		time.Sleep(5 * time.Second) // it must be noticed while the revision is lower
	} else if m.rnd.IntN(2) == 0 {
		for range m.rnd.IntN(40) {
			m.write()
		}
	}
}

// client returns one that is not closed, or nil.
func (m *model) client() *modelClient {
	if len(m.clients) == 0 {
		return nil
	}
	return m.clients[m.rnd.IntN(len(m.clients))]
}

// newClient returns nil if the client's stream would be forwarded.
func (m *model) newClient() *modelClient {
	c := &modelClient{
		m: m, name: m.names, room: m.rnd.IntN(10),
		requests: make(chan func(), 1000), done: make(chan struct{}),
	}
	m.names++
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.stream = m.hub.NewStream(c) // before Share is called, as in grpcapi
	go func() {
		defer close(c.done)
		shared, err := m.set.Share(c.ctx)
		if err != nil && !m.faults.cuts && c.ctx.Err() == nil {
			m.fail("client %d: cannot share: %v", c.name, err)
		}
		if !shared && err == nil && !m.hadAuth() {
			m.fail("client %d is not shared", c.name)
		}
		if !shared {
			c.forward()
			return
		}
		for {
			select {
			case do := <-c.requests:
				do()
			case <-c.ctx.Done():
				return
			}
		}
	}()
	m.clients = append(m.clients, c)
	return c
}

// forward is when the client's stream turns out to be none of the Set's business.
func (c *modelClient) forward() {
	c.mu.Lock()
	c.closed = true
	if c.ended == nil {
		c.ended = errors.New("forwarded")
	}
	c.mu.Unlock()
	c.stream.Close()
}

func (c *modelClient) close() {
	c.mu.Lock()
	c.closed = true
	for _, w := range c.watches {
		w.over = true
	}
	c.mu.Unlock()
	c.cancel()
	<-c.done
	c.stream.Close()
}

// watch creates a watch on a stream, which may be new.
func (m *model) watch() {
	c := m.client()
	if c == nil || len(m.clients) < 6 && m.rnd.IntN(3) == 0 {
		c = m.newClient()
	}
	n := 1
	if m.rnd.IntN(4) == 0 {
		n = 1 + m.rnd.IntN(15)
	}
	for range n {
		c.watch(m.newWatch())
	}
}

func (m *model) newWatch() coalesce.Watch {
	coin := func(of int) bool { return m.rnd.IntN(of) == 0 }
	o := coalesce.Watch{PrevKV: coin(4), NoPut: coin(8), ProgressNotify: coin(3)}
	o.NoDelete = !o.NoPut && coin(8)
	set := func(key, end string) { o.Key, o.End = []byte(key), []byte(end) }
	kind := m.rnd.IntN(10)
	if m.load == lopsided && (kind == 3 || kind == 5) {
		kind = 9 // with a watch of everything there is nothing to divide
	}
	switch kind {
	case 0:
		set("a/", "a0")
	case 1:
		set("b/", "b0")
	case 2:
		set("b/c/", "b/c0")
	case 3:
		set("\x00", "\x00")
	case 4:
		from := m.rnd.IntN(28)
		set(fmt.Sprintf("a/%02d", from), fmt.Sprintf("a/%02d", from+1+m.rnd.IntN(29-from)))
	case 5:
		set(m.key(), "\x00")
	default:
		set(m.key(), "")
	}
	head := m.cluster.head()
	switch m.rnd.IntN(6) {
	case 0:
		o.Start = max(1, head-m.rnd.Int64N(10))
	case 1:
		o.Start = 1 + m.rnd.Int64N(head)
	case 2:
		o.Start = head + m.rnd.Int64N(5)
	}
	return o
}

func (c *modelClient) watch(o coalesce.Watch) {
	m := c.m
	w := &modelWatch{watch: o, called: m.known()}
	_, epochs := m.epochsNow()
	w.recent = epochs[len(epochs)-1]
	since := m.hub.Arrive()
	c.mu.Lock()
	w.ID = int64(len(c.watches))
	c.watches = append(c.watches, w)
	m.note("client %d: %v", c.name, w)
	c.mu.Unlock()
	c.requests <- func() {
		err := c.stream.Watch(c.ctx, &w.Watcher, o, since)
		c.mu.Lock()
		defer c.mu.Unlock()
		_, epochs := m.epochsNow()
		switch {
		case (err == nil) != w.created && c.ended == nil && !c.closed:
			m.fail("client %d: %v has the error %v, created %v", c.name, w, err, w.created)
		case err == nil:
		case c.ctx.Err() != nil, m.hadAuth():
			w.canceled = err
		case errors.Is(err, errReplaced) && epochs[len(epochs)-1] != epochs[0]:
			w.canceled = err
		default:
			m.fail("client %d: %v is refused: %v", c.name, w, err)
		}
	}
}

func (m *model) cancel() {
	c := m.client()
	if c == nil {
		return
	}
	c.mu.Lock()
	var w *modelWatch
	if len(c.watches) > 0 {
		w = c.watches[m.rnd.IntN(len(c.watches))]
	}
	if w == nil || !w.live() {
		c.mu.Unlock()
		return
	}
	m.note("client %d cancels %v", c.name, w)
	w.over = true
	c.mu.Unlock()
	c.stream.Cancel(&w.Watcher)
	c.mu.Lock()
	c.dropAsked()
	c.mu.Unlock()
}

func (c *modelClient) drain(room int) {
	c.mu.Lock()
	c.room = max(c.room, room)
	refused := c.refused && c.room > 0
	if refused {
		c.refused = false
	}
	c.mu.Unlock()
	if refused {
		c.stream.Drained()
	}
}

func (c *modelClient) requestProgress() {
	head, since := c.m.known(), c.m.hub.Arrive()
	_, then := c.m.epochsNow()
	c.requests <- func() {
		c.mu.Lock()
		if _, now := c.m.epochsNow(); len(now) != len(then) {
			head = 0
		}
		c.asked = append(c.asked, head)
		c.dropAsked()
		c.mu.Unlock()
		c.stream.RequestProgress(since)
	}
}

// known is what a client may have been told of through the proxy, which sends everything to the member that the session
// is on. Between two sessions it is no matter: the next one is on a member that has caught up.
func (m *model) known() int64 {
	m.set.mu.Lock()
	defer m.set.mu.Unlock()
	if m.set.session == nil {
		return 0
	}
	member := m.set.session.member.(*fakeConn).member
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	return member.rev
}

// settleTime is enough for a dead connection to be noticed, and for everything else.
const settleTime = keepAlive + 10*time.Second

// settle lets upstream and all clients go on for a while, and then wants nothing to be missing.
func (m *model) settle() {
	m.note("settle")
	for _, f := range m.cluster.members {
		f.start()
		f.set(func() { f.isolated, f.stuck = false, false })
	}
	for _, c := range m.clients {
		c.drain(1 << 30)
	}
	time.Sleep(settleTime)
	if m.cluster.now().auth {
		m.checkUnshared()
		m.cluster.setAuth(false)
		m.dropClients()
		time.Sleep(settleTime)
	}
	m.dropClients()
	m.checkProgress() // although nothing happens
	for range 6 {     // so that watches of the future begin
		m.cluster.write(fakeOp{"a/00", []byte("x")}, fakeOp{"b/c/0", []byte("x")})
	}
	time.Sleep(settleTime)
	m.checkProgress()

	m.mu.Lock()
	m.settled = len(m.epochs) - 1
	newest := m.epochs[m.settled]
	m.mu.Unlock()
	live, head := 0, m.cluster.head()
	for _, c := range m.clients {
		c.mu.Lock()
		for _, w := range c.watches {
			if w.canceled == nil && !w.over && !w.created {
				m.fail("client %d: %v is never created", c.name, w)
			}
			if !w.live() {
				continue
			}
			live++
			if w.epochs[len(w.epochs)-1] != newest {
				m.fail("client %d: %v is of an older cluster and not cancelled", c.name, w)
			}
			if err := w.follow(m, head, nil); err != nil {
				m.fail("client %d: %v lacks events: %v", c.name, w, err)
			}
		}
		c.room = m.rnd.IntN(10)
		c.mu.Unlock()
	}
	const few = 3 * widenFrom
	if n := m.cluster.watches(); n > min(live, few)+m.fixedFeeds() {
		m.fail("%d watches upstream for %d", n, live)
	}
	m.note("settled with %d watches", live)
}

// checkProgress asks for progress and wants all that has been asked for to be answered.
func (m *model) checkProgress() {
	for _, c := range m.clients {
		c.requestProgress()
	}
	time.Sleep(10 * time.Second)
	synctest.Wait()
	for _, c := range m.clients {
		c.mu.Lock()
		// With some that may have been dropped, it cannot be told which of the others were answered.
		if c.dropAsked(); len(c.asked) > len(c.dropped) {
			m.fail("client %d is not told of the progress that it asked for at %v", c.name, c.asked)
		}
		c.mu.Unlock()
	}
}

// checkUnshared wants nothing to be served any more.
func (m *model) checkUnshared() {
	if shared, err := m.set.Share(m.t.Context()); shared || err != nil {
		m.fail("with authentication on, watches are shared: %v, %v", shared, err)
	}
	for _, c := range m.clients {
		c.mu.Lock()
		for _, w := range c.watches {
			if w.live() && c.ended == nil {
				m.fail("client %d goes on with authentication on", c.name)
			}
		}
		c.mu.Unlock()
	}
}

// dropClients closes those whose streams have been ended.
func (m *model) dropClients() {
	m.clients = slices.DeleteFunc(m.clients, func(c *modelClient) bool {
		c.mu.Lock()
		ended := c.ended != nil
		c.mu.Unlock()
		if ended {
			c.close()
		}
		return ended
	})
}

// checkNothingLeft is called when all clients have gone.
func (m *model) checkNothingLeft() {
	time.Sleep(30 * time.Second)
	if n, fixed := m.cluster.watches(), m.fixedFeeds(); n != fixed {
		m.fail("%d watches upstream for no client, and %d fixed feeds", n, fixed)
	}
}

func (m *model) fixedFeeds() int {
	m.set.mu.Lock()
	defer m.set.mu.Unlock()
	return len(m.set.catalog.fixed)
}
