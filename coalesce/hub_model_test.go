package coalesce

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weir/grpcapi/wire"
)

// TestWatchersSeeEveryEventOnceInOrder takes the hub's steps one by one in random order, mixed with everything that
// clients, feeds and the store can do, also while the hub is calling a Sink, a Source or the Feeder. After each call it
// checks what was delivered against the list of all revisions, and at the end that nothing is missing.
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
	store     int // how often it has been replaced
	highest   int64
	feeds     []*modelFeed
	streams   []*modelStream
	nextID    int64
	arrivals  []modelArrival
	ring      int

	tasks    []*modelTask
	depth    int
	settling bool
}

// modelTask is what the hub would have a goroutine do.
type modelTask struct {
	step    func() bool
	running bool // it is on the stack
}

// firstRev is the newest revision when a feed may first be opened; a few revisions of history are older.
const firstRev = 20

// Reasons for which the model ends watchers.
var (
	errModelFeed    = errors.New("model: feed closed")
	errModelReset   = errors.New("model: store replaced")
	errModelHistory = errors.New("model: history cannot be read")
	errModelRefused = errors.New("model: no feed")
	errModelEnd     = errors.New("model: stream ended")
)

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 1))}
	m.replaceStore()
	m.ring = []int{1, 500, 3000, 1 << 20}[m.rnd.IntN(4)]
	chunk := []int{1, 300, 1000, chunkBytes}[m.rnd.IntN(4)]
	m.hub = newHub(m, chunk, 1+m.rnd.IntN(3), 1+m.rnd.IntN(3))
	m.hub.round = m.hub.window + []int{0, 1, 5, mergedCohorts}[m.rnd.IntN(4)]
	m.hub.start = func(step func() bool) { m.tasks = append(m.tasks, &modelTask{step: step}) }
	m.hub.pause = m.meanwhile
	return m
}

func (m *model) replaceStore() {
	m.store++
	m.history, m.head, m.compacted = nil, 1, 0
	for m.head < firstRev {
		m.commit()
	}
}

func (m *model) run() {
	for range 50 + m.rnd.IntN(600) {
		m.step()
	}
	m.settle()
}

// step does one thing at random.
func (m *model) step() {
	m.depth++
	defer func() {
		m.depth--
		m.noticeDropped()
	}()
	switch m.rnd.IntN(20) {
	case 0, 1:
		m.commit()
	case 2, 3, 4:
		if f := m.feed(); f != nil && !f.cut {
			f.publish(1 + m.rnd.IntN(4))
		}
	case 5, 6:
		m.create()
	case 7:
		if s := m.stream(); s != nil && len(s.watchers) > 0 {
			w := s.watchers[m.rnd.IntN(len(s.watchers))]
			w.over = true
			s.stream.Cancel(&w.Watcher)
		}
	case 8:
		if m.rnd.IntN(4) == 0 {
			m.compacted = max(m.compacted, m.head-m.rnd.Int64N(15))
			m.hub.Compacted(m.compacted)
		}
	case 9:
		if s := m.stream(); s != nil {
			s.drain()
		}
	case 10:
		if s := m.stream(); s != nil {
			if m.rnd.IntN(3) == 0 {
				s.await()
			} else {
				s.requestProgress()
			}
		}
	case 11:
		if s := m.stream(); s != nil {
			s.stream.NotifyProgress()
		}
	case 12:
		if s := m.stream(); s != nil && m.rnd.IntN(5) == 0 {
			s.close()
		}
	case 13:
		m.changeFeeds()
	default:
		m.runTask()
	}
}

// changeFeeds does what the owner of the feeds can do.
func (m *model) changeFeeds() {
	f := m.feed()
	if f == nil {
		return
	}
	switch m.rnd.IntN(16) {
	case 0, 1, 2, 3, 4:
		if to := m.feed(); to != nil {
			in := to.span
			if m.rnd.IntN(3) == 0 {
				in = m.rangeInside(in)
			}
			f.feed.Move(in, to.feed)
			to.movedTo = true
		}
	case 5, 6:
		if f.feed.CloseIdle() {
			f.closed = true
		}
	case 7, 8:
		f.cut = !f.cut
	case 9, 10:
		f.feed.SetRingBytes([]int{0, 1, 500, 3000}[m.rnd.IntN(4)])
	case 11:
		f.closed = true
		f.feed.Close(errModelFeed)
	case 12:
		if m.rnd.IntN(4) == 0 {
			for _, s := range m.streams {
				if !s.closed {
					s.ending = true
				}
			}
			m.hub.End(errModelEnd)
		}
	case 13:
		if m.rnd.IntN(4) == 0 {
			m.reset()
		}
	case 14, 15:
		f.jump()
	}
}

func (m *model) reset() {
	m.replaceStore()
	for _, f := range m.feeds {
		f.closed = true
	}
	for _, s := range m.streams {
		clear(s.asked) // any revision of the new store is newer than the request
		s.told, s.stale = 0, s.stream.telling
	}
	m.hub.Reset(errModelReset)
}

// runTask does one step of one of the hub's goroutines.
func (m *model) runTask() bool {
	var ready []*modelTask
	for _, t := range m.tasks {
		if !t.running {
			ready = append(ready, t)
		}
	}
	if len(ready) == 0 {
		return false
	}
	t := ready[m.rnd.IntN(len(ready))]
	t.running = true
	more := t.step()
	t.running = false
	if !more {
		for i := range m.tasks {
			if m.tasks[i] == t {
				m.tasks = append(m.tasks[:i], m.tasks[i+1:]...)
				break
			}
		}
	}
	return true
}

// meanwhile is called where other goroutines could do something.
func (m *model) meanwhile() {
	m.noticeDropped()
	for _, s := range m.streams {
		s.checkDelivered()
	}
	if !m.settling && m.depth < 4 && m.rnd.IntN(3) == 0 {
		m.step()
	}
}

// noticeDropped forgets requests for progress of streams that have no watchers: nobody is to answer them.
func (m *model) noticeDropped() {
	for _, s := range m.streams {
		s.stale = s.stale && s.stream.telling
		if len(s.stream.watchers) == 0 {
			s.dropped += len(s.asked)
			s.asked = nil
		}
	}
}

// settle lets the hub finish, with clients that take everything, and checks that nothing is missing.
func (m *model) settle() {
	m.settling = true
	m.finish((*modelFeed).publishEvents)
	m.checkAnswered(func(s *modelStream) int64 { return s.stream.wanted + 1 })
	for _, s := range m.streams {
		if !s.closed && len(s.asked) > 0 {
			s.requestProgress()
		}
	}
	m.finish((*modelFeed).publishEvents)
	m.checkAnswered(func(*modelStream) int64 { return m.head + 1 })
	m.finish((*modelFeed).publishAll)
	m.checkNothingMissing()
	m.checkNotified()
	m.checkIdle()
	m.hub.Close()
	for _, s := range m.streams {
		for _, w := range s.watchers {
			if !w.over && w.canceled == nil {
				m.t.Errorf("watcher %d was not cancelled by Close", w.ID)
			}
		}
	}
	m.checkNothingKept()
}

// checkAnswered fails if progress that was asked for has not been told, although nobody but the Feeder's Sync has
// published that there is no event. While a watcher starts in the future, there is none.
func (m *model) checkAnswered(future func(*modelStream) int64) {
	for _, s := range m.streams {
		early := slices.ContainsFunc(s.watchers, func(w *modelWatcher) bool {
			return !w.over && w.canceled == nil && w.watch.Start > future(s)
		})
		if len(s.asked) > 0 && !early && !s.closed {
			m.t.Errorf("%d progress requests were not answered", len(s.asked))
		}
	}
}

func (m *model) finish(publish func(*modelFeed)) {
	steps := 0
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
		for _, f := range m.feeds {
			publish(f)
		}
		busy = m.runTask() || busy
		if steps++; steps > 20000 {
			m.t.Fatal("the hub does not come to rest")
		}
	}
	m.noticeDropped()
}

func (m *model) checkNothingMissing() {
	for _, s := range m.streams {
		for _, w := range s.watchers {
			if w.over || w.canceled != nil {
				continue
			}
			if w.store != m.store {
				m.t.Errorf("watcher %d was not cancelled when the store was replaced", w.ID)
			}
			if want := m.wanted(w, m.head); len(w.got) != len(want) {
				m.t.Errorf("watcher %d of %v: got %d events, want %d", w.ID, w.watch, len(w.got), len(want))
			}
		}
	}
}

// checkNotified asks twice, because the first time those are left out that have been sent events.
func (m *model) checkNotified() {
	for range 2 {
		for _, s := range m.streams {
			s.stream.NotifyProgress()
		}
		m.finish((*modelFeed).publishAll)
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

// checkIdle fails if the hub counts more watchers than there are.
func (m *model) checkIdle() {
	open := map[*Feed]int{}
	for _, s := range m.streams {
		for _, w := range s.stream.watchers {
			open[w.group.feed]++
		}
		if s.stream.behind != 0 || s.stream.served != [2]int{} || s.stream.held != [2]watcherList{} {
			m.t.Errorf("a stream at rest has %d watchers behind and %v served", s.stream.behind, s.stream.served)
		}
	}
	for _, f := range m.feeds {
		if stats := f.feed.Stats(); stats.Watchers != open[f.feed] {
			m.t.Errorf("a feed counts %d watchers and has %d", stats.Watchers, open[f.feed])
		}
		if closed := f.feed.CloseIdle(); closed != (f.closed || open[f.feed] == 0) {
			m.t.Errorf("a feed with %d watchers is closed: %v", open[f.feed], closed)
		}
	}
	m.finish((*modelFeed).publishAll)
}

func (m *model) checkNothingKept() {
	h := m.hub
	if len(h.cohorts) != 0 || h.lagging != [2]feedQueue{} || h.resyncing != [2]int{} {
		m.t.Errorf("the hub keeps something of watchers that are gone")
	}
	for _, f := range m.feeds {
		f := f.feed
		kept := len(f.index.keys) + len(f.index.all) + f.index.heads + f.watchers + f.incoming +
			len(f.asking) + len(f.notifying) + len(f.moves) + len(f.reads)
		if kept != 0 || f.index.ranges.root != nil || f.waiting != [2]cohortList{} {
			m.t.Errorf("a feed keeps something of watchers that are gone")
		}
	}
	for _, s := range m.streams {
		s := s.stream
		if len(s.feeds) != 0 || s.waitsFor != nil || s.early.first != nil || s.held != [2]watcherList{} || s.pending() != 0 {
			m.t.Errorf("a stream keeps something of watchers that are gone")
		}
	}
}

// commit makes the next revision: a few events, or none, or a gap before it.
func (m *model) commit() {
	if m.rnd.IntN(8) == 0 {
		m.head += m.rnd.Int64N(4)
	}
	m.head++
	m.highest = max(m.highest, m.head)
	b := Batch{Revision: m.head}
	for range m.rnd.IntN(4) {
		key := m.key()
		if slices.Contains(keysOf(b), key) {
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
}

func keysOf(b Batch) (keys []string) {
	for _, e := range b.Events {
		keys = append(keys, string(e.Key))
	}
	return keys
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

// aRange is a random one.
func (m *model) aRange() Range {
	r := Range{Key: []byte(m.key()), PrevKV: m.rnd.IntN(2) == 0}
	switch m.rnd.IntN(4) {
	case 0:
		r.End = []byte{0}
	case 1:
		r.End = []byte{r.Key[0] + byte(1+m.rnd.IntN(4))}
	}
	return r
}

func (m *model) rangeInside(outer Range) Range {
	for range 100 {
		if r := m.aRange(); outer.Contains(r) {
			return r
		}
	}
	return outer
}

// prev is the value of a key before a revision of the store.
func prevIn(history []Batch, key []byte, rev int64) []byte {
	for i := len(history) - 1; i >= 0; i-- {
		b := history[i]
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
