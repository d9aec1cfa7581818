package coalesce

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weir/grpcapi/wire"
)

// TestWatchersSeeEveryEventOnceInOrder takes the hub's steps one by one in random order, mixed with everything that
// clients and the store can do, also while the hub is calling a Sink or the Source. After each call it checks what
// was delivered against the list of all revisions, and at the end that nothing is missing.
func TestWatchersSeeEveryEventOnceInOrder(t *testing.T) {
	runs := 2000
	if testing.Short() {
		runs = 200
	}
	for seed := range uint64(runs) {
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { newModel(t, seed).run() }) {
			return
		}
	}
}

// model is the hub under test and the simplest description of what it must do: the list of all revisions.
type model struct {
	t   *testing.T
	rnd *rand.Rand
	hub *Hub

	history   []Batch // revisions above firstRev that have events
	head      int64
	compacted int64
	streams   []*modelStream
	nextID    int64

	resyncers []*resyncer
	resyncing []bool
	casting   bool // broadcast is on the stack
	awake     bool // the broadcaster would call broadcast again
	depth     int
	settling  bool
}

// firstRev is the hub's revision at the beginning; a few revisions of history are older.
const firstRev = 20

type modelStream struct {
	m        *model
	stream   *Stream
	watchers []*modelWatcher
	created  int
	room     int  // deliveries until it refuses
	refused  bool // it owes Drained
	closed   bool
	notifies int     // NotifyProgress calls
	asked    []int64 // RequestProgress calls not answered: the revision at the time
	dropped  int     // RequestProgress calls that need no answer, because no watcher was left
}

type modelWatcher struct {
	Watcher
	watch    Watch
	got      []wire.Event
	progress int64 // that it was last notified of
	over     bool  // cancelled or closed by the test
	canceled error
	sentAt   int // modelStream.notifies when it was last sent events, -1 at first
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), head: 1}
	for m.head < firstRev {
		m.commit()
	}
	ring := []int{1, 500, 3000, 1 << 20}[m.rnd.IntN(4)]
	chunk := []int{1, 300, 1000, chunkBytes}[m.rnd.IntN(4)]
	m.hub = newHub(m, m.head, ring, chunk, 1+m.rnd.IntN(3))
	for range 2 {
		m.resyncers = append(m.resyncers, newResyncer(m.hub))
	}
	m.resyncing = make([]bool, len(m.resyncers))
	return m
}

func (m *model) run() {
	for range 20 + m.rnd.IntN(200) {
		m.step()
	}
	m.settle()
}

// step does one thing at random.
func (m *model) step() {
	m.depth++
	defer func() { m.depth-- }()
	switch m.rnd.IntN(14) {
	case 0, 1, 2:
		m.hub.Publish(m.commit())
	case 3, 4:
		m.create()
	case 5:
		if s := m.stream(); s != nil && len(s.watchers) > 0 {
			w := s.watchers[m.rnd.IntN(len(s.watchers))]
			w.over = true
			s.stream.Cancel(&w.Watcher)
			s.dropAsked()
		}
	case 6:
		if m.rnd.IntN(4) == 0 {
			m.compacted = max(m.compacted, m.head-m.rnd.Int64N(15))
			m.hub.Compacted(m.compacted)
		}
	case 7:
		if s := m.stream(); s != nil {
			s.drain()
		}
	case 8:
		if s := m.stream(); s != nil {
			s.requestProgress()
		}
	case 9:
		if s := m.stream(); s != nil {
			s.notifies++
			s.stream.NotifyProgress()
		}
	case 10:
		if s := m.stream(); s != nil && m.rnd.IntN(5) == 0 {
			s.close()
		}
	case 11, 12:
		m.broadcast()
	default:
		m.resync()
	}
}

// broadcast is one round of Hub.runBroadcaster: only when it was woken, and then until there is nothing new.
func (m *model) broadcast() bool {
	if m.casting {
		return false
	}
	if !m.awake {
		select {
		case <-m.hub.wake:
			m.awake = true
		default:
			return false
		}
	}
	m.casting = true
	defer func() { m.casting = false }()
	m.awake = m.hub.broadcast()
	return true
}

func (m *model) resync() bool {
	i := slices.Index(m.resyncing, false)
	if i < 0 {
		return false
	}
	m.resyncing[i] = true
	defer func() {
		m.resyncing[i] = false
		for _, s := range m.streams { // it may have ended the last watcher of one
			s.dropAsked()
		}
	}()
	return m.resyncers[i].resync()
}

// meanwhile is called where other goroutines could do something.
func (m *model) meanwhile() {
	if !m.settling && m.depth < 4 && m.rnd.IntN(3) == 0 {
		m.step()
	}
}

// settle lets the hub finish, with clients that take everything, and checks that nothing is missing.
func (m *model) settle() {
	m.settling = true
	m.finish()
	m.checkNothingMissing()
	m.checkNotified()
	m.hub.Close()
	for _, s := range m.streams {
		for _, w := range s.watchers {
			if !w.over && w.canceled == nil {
				m.t.Errorf("watcher %d was not cancelled by Close", w.ID)
			}
		}
	}
	if len(m.hub.index.keys) != 0 || m.hub.index.ranges.root != nil || len(m.hub.queue.byKey) != 0 {
		m.t.Errorf("the hub keeps something of watchers that are gone")
	}
}

func (m *model) finish() {
	for busy := true; busy; {
		busy = false
		for _, s := range m.streams {
			s.room = 1 << 30
			if s.refused {
				s.drain()
				s.room = 1 << 30
				busy = true
			}
		}
		busy = m.broadcast() || busy
		busy = m.resync() || busy
	}
}

func (m *model) checkNothingMissing() {
	for _, s := range m.streams {
		early := false
		for _, w := range s.watchers {
			if w.over || w.canceled != nil {
				continue
			}
			if want := m.wanted(w, m.head); len(w.got) != len(want) {
				m.t.Errorf("watcher %d of %v: got %d events, want %d", w.ID, w.watch, len(w.got), len(want))
			}
			early = early || w.watch.Start > m.head+1
		}
		if len(s.asked) > 0 && !early && !s.closed {
			m.t.Errorf("%d progress requests were not answered", len(s.asked))
		}
	}
}

// checkNotified asks twice, because the first time those are left out that have been sent events.
func (m *model) checkNotified() {
	for range 2 {
		for _, s := range m.streams {
			s.notifies++
			s.stream.NotifyProgress()
		}
		m.finish()
	}
	for _, s := range m.streams {
		for _, w := range s.watchers {
			due := !w.over && w.canceled == nil && w.watch.ProgressNotify && w.watch.Start <= m.head+1
			if due && w.progress != m.head {
				m.t.Errorf("watcher %d was last notified of progress %d, not of %d", w.ID, w.progress, m.head)
			}
		}
	}
}

// commit makes the next revision: a few events, or none, or a gap before it.
func (m *model) commit() Batch {
	if m.rnd.IntN(8) == 0 {
		m.head += m.rnd.Int64N(4)
	}
	m.head++
	b := Batch{Revision: m.head}
	for range m.rnd.IntN(4) {
		key := m.key()
		if slices.ContainsFunc(b.Events, func(e wire.Event) bool { return string(e.Key) == key }) {
			continue
		}
		if m.rnd.IntN(3) == 0 {
			b.Events = append(b.Events, wire.NewDeleteEvent([]byte(key), m.head))
			continue
		}
		b.Events = append(b.Events, putEvent(key, m.head, m.rnd.IntN([]int{10, 300}[m.rnd.IntN(2)])))
	}
	if len(b.Events) > 0 {
		m.history = append(m.history, b)
	}
	return b
}

func putEvent(key string, rev int64, valueSize int) wire.Event {
	kv := wire.KeyValue{Key: []byte(key), Value: bytes.Repeat([]byte("v"), valueSize), ModRevision: rev}
	e, err := wire.NewPutEvent(kv.Append(nil))
	if err != nil {
		panic(err)
	}
	return e
}

func (m *model) key() string { return string(rune('a' + m.rnd.IntN(6))) }

func (m *model) stream() *modelStream {
	if len(m.streams) == 0 || len(m.streams) < 4 && m.rnd.IntN(8) == 0 {
		s := &modelStream{m: m, room: m.rnd.IntN(10)}
		s.stream = m.hub.NewStream(s)
		m.streams = append(m.streams, s)
	}
	if s := m.streams[m.rnd.IntN(len(m.streams))]; !s.closed {
		return s
	}
	return nil
}

func (m *model) create() {
	s := m.stream()
	if s == nil {
		return
	}
	w := &modelWatcher{sentAt: -1}
	m.nextID++
	w.ID = m.nextID
	w.watch = Watch{
		Key: []byte(m.key()), Start: max(1, m.head+1+m.rnd.Int64N(25)-20),
		PrevKV: m.rnd.IntN(2) == 0, NoPut: m.rnd.IntN(5) == 0, NoDelete: m.rnd.IntN(5) == 0,
		ProgressNotify: m.rnd.IntN(2) == 0,
	}
	switch m.rnd.IntN(4) {
	case 0:
		w.watch.End = []byte{0}
	case 1:
		w.watch.End = []byte{w.watch.Key[0] + byte(1+m.rnd.IntN(4))}
	}
	if m.rnd.IntN(2) == 0 {
		w.watch.Start = m.head + 1
	}
	s.created++ // as a sink announces it to its client
	for range 3 {
		m.meanwhile()
	}
	if s.closed {
		return
	}
	s.watchers = append(s.watchers, w)
	below := w.watch.Start < m.compacted
	s.stream.Watch(&w.Watcher, w.watch)
	if below && w.canceled == nil && !w.over {
		m.t.Fatalf("a watch from %d was accepted with compact revision %d", w.watch.Start, m.compacted)
	}
}

// wanted is what w must have been sent when it has been sent everything up to rev.
func (m *model) wanted(w *modelWatcher, rev int64) (events []wire.Event) {
	g := group{key: string(w.watch.Key), end: string(w.watch.End)}
	for _, b := range m.history {
		for _, e := range b.Events {
			in := b.Revision >= w.watch.Start && b.Revision <= rev && g.contains(e.Key)
			if in && !(e.Delete && w.watch.NoDelete) && !(!e.Delete && w.watch.NoPut) {
				events = append(events, e)
			}
		}
	}
	return events
}

// Prev is the value before rev. The model's store loses those that compaction may drop.
func (m *model) Prev(key []byte, rev int64) []byte {
	m.meanwhile()
	return m.prev(key, rev)
}

func (m *model) prev(key []byte, rev int64) []byte {
	for i := len(m.history) - 1; i >= 0; i-- {
		b := m.history[i]
		for _, e := range b.Events {
			if b.Revision < rev && bytes.Equal(e.Key, key) {
				if e.Delete {
					return nil
				}
				return e.Data // as good as the KeyValue, which is in it
			}
		}
	}
	return nil
}

func (m *model) History(_ context.Context, key, end []byte, from int64, yield func(Batch) bool) (int64, error) {
	if from < m.compacted {
		return 0, &CompactedError{CompactRevision: m.compacted}
	}
	g, newest := group{key: string(key), end: string(end)}, m.head
	for _, b := range m.history {
		m.meanwhile()
		in := Batch{Revision: b.Revision}
		for _, e := range b.Events {
			if g.contains(e.Key) {
				in.Events = append(in.Events, e)
			}
		}
		if b.Revision >= from && len(in.Events) > 0 && !yield(in) {
			return b.Revision + 1, nil
		}
	}
	return newest + 1, nil
}
