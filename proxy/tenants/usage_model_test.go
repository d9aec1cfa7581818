package tenants

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// usageModel is a usage, and the truth that it must not let above the quota: a store, writes on their way to it, and what the
// tracker has not been told yet.
type usageModel struct {
	t     *testing.T
	rnd   *rand.Rand
	usage *usage

	rev     int64
	truth   map[string]int // sizes of keys and values
	untold  []revisionOf
	flying  []*flyingWrite
	refused int
}

type revisionOf struct {
	rev     int64
	changes []sizeChange
}

// flyingWrite is a write that has been let through and may still be done.
type flyingWrite struct {
	reservation *reservation
	branches    [][]put
	unknown     time.Time // when its client gave up; zero if it waits
}

func TestQuotaIsKeptWhateverOrderWritesArriveIn(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	for range 300 {
		bubble.Test(t, func(t *testing.T) {
			m := &usageModel{t: t, rnd: rnd, usage: newUsage(1+rnd.Int64N(8), 1+rnd.Int64N(100)), truth: map[string]int{}, rev: 1}
			m.recount()
			for range 300 {
				m.step()
				m.check()
			}
			m.settleAll()
		})
		if t.Failed() {
			return
		}
	}
}

func (m *usageModel) step() {
	switch m.rnd.IntN(10) {
	case 0, 1, 2:
		m.write()
	case 3, 4:
		m.arrive()
	case 5:
		m.remove()
	case 6, 7:
		m.tell()
	case 8:
		m.fail()
	case 9:
		if m.rnd.IntN(5) == 0 {
			m.usage.lose(unknown, nil)
			m.recount()
		}
		m.pass(time.Duration(m.rnd.Int64N(int64(doubt))))
	}
}

func (m *usageModel) write() {
	w := &flyingWrite{}
	for range 1 + m.rnd.IntN(2) {
		var b []put
		for range m.rnd.IntN(4) {
			key := fmt.Sprint("k", m.rnd.IntN(6))
			b = append(b, put{key: []byte(key), size: int64(len(key) + m.rnd.IntN(30))})
		}
		w.branches = append(w.branches, b)
	}
	var err error
	w.reservation, err = m.usage.reserve(w.branches)
	switch {
	case err == nil && w.reservation != nil:
		m.flying = append(m.flying, w)
	case errors.Is(err, rpctypes.ErrGRPCNoSpace):
		m.refused++
	case err != nil:
		m.t.Errorf("reserve: %v", err)
	}
}

// take takes one of the writes on their way.
func (m *usageModel) take() *flyingWrite {
	if len(m.flying) == 0 {
		return nil
	}
	i := m.rnd.IntN(len(m.flying))
	w := m.flying[i]
	m.flying = slices.Delete(m.flying, i, i+1)
	return w
}

// arrive has the store do a write, and tells its client.
func (m *usageModel) arrive() {
	w := m.take()
	if w == nil {
		return
	}
	sizes := map[string]int{}
	for _, p := range w.branches[m.rnd.IntN(len(w.branches))] {
		sizes[string(p.key)] = int(p.size)
	}
	m.commit(sizes)
	if w.unknown.IsZero() {
		m.usage.settle(w.reservation, outcome{revision: m.rev})
	}
}

// commit does something in the store. A write that does nothing states the revision that there is.
func (m *usageModel) commit(sizes map[string]int) {
	if len(sizes) == 0 {
		return
	}
	m.rev++
	r := revisionOf{rev: m.rev}
	for k, size := range sizes {
		r.changes = append(r.changes, sizeChange{hashOf([]byte(k)), uint32(size), m.rev})
		if m.truth[k] = size; size == 0 {
			delete(m.truth, k)
		}
	}
	m.untold = append(m.untold, r)
}

// fail ends a write for its client before the store has done it, which it may still do.
func (m *usageModel) fail() {
	w := m.take()
	switch {
	case w == nil:
	case !w.unknown.IsZero():
		m.flying = append(m.flying, w) // it has failed already
	case m.rnd.IntN(2) == 0:
		m.usage.settle(w.reservation, outcome{refused: true})
	default:
		m.usage.settle(w.reservation, outcome{})
		w.unknown = time.Now()
		m.flying = append(m.flying, w)
	}
}

func (m *usageModel) remove() {
	keys := slices.Sorted(maps.Keys(m.truth))
	if len(keys) > 0 {
		m.commit(map[string]int{keys[m.rnd.IntN(len(keys))]: 0})
	}
}

// tell has the tracker be told of the next revision.
func (m *usageModel) tell() {
	if len(m.untold) == 0 {
		m.usage.reach(m.rev)
		return
	}
	r := m.untold[0]
	m.untold = m.untold[1:]
	if !m.usage.apply(r.changes, r.rev) {
		m.t.Error("there are more keys than there can be")
	}
}

// pass lets time pass. What upstream has not done in time it will not do.
func (m *usageModel) pass(d time.Duration) {
	time.Sleep(d)
	m.flying = slices.DeleteFunc(m.flying, func(w *flyingWrite) bool {
		return !w.unknown.IsZero() && time.Since(w.unknown) >= doubt
	})
	m.usage.date(time.Now(), m.rev)
}

func (m *usageModel) recount() {
	held := census{sizes: map[keyHash]uint32{}}
	for k, size := range m.truth {
		held.set(hashOf([]byte(k)), uint32(size))
	}
	m.untold = nil
	m.usage.know(held, m.rev, time.Now().Add(-1))
}

func (m *usageModel) sum() (sum amount) {
	for _, size := range m.truth {
		sum.add(1, uint32(size))
	}
	return sum
}

func (m *usageModel) check() {
	if sum := m.sum(); sum.keys > m.usage.maxKeys || sum.bytes > m.usage.maxBytes {
		m.t.Fatalf("there are %+v, with a quota of %d keys, %d bytes", sum, m.usage.maxKeys, m.usage.maxBytes)
	}
}

// settleAll lets everything come to an end. Then what is counted is the truth, and nothing is reserved.
func (m *usageModel) settleAll() {
	for len(m.flying) > 0 {
		m.arrive()
	}
	for len(m.untold) > 0 {
		m.tell()
	}
	m.usage.reach(m.rev)
	m.pass(doubt)
	u := m.usage
	if sum := m.sum(); u.held.sum != sum || u.most != sum {
		m.t.Errorf("counted %+v, at most %+v, and there are %+v", u.held.sum, u.most, sum)
	}
	if len(u.pending) > 0 || len(u.owed) > 0 || u.puts != 0 {
		m.t.Errorf("reserved: %d keys, %d writes, %d puts", len(u.pending), len(u.owed), u.puts)
	}
	for range 20 { // with nothing in flight a write is let through exactly if it fits, or makes nothing larger
		key, size := fmt.Sprint("k", m.rnd.IntN(8)), 2+m.rnd.IntN(40)
		want := m.sum()
		want.add(-1, uint32(m.truth[key]))
		want.add(1, uint32(max(size, m.truth[key])))
		fits := want.keys <= u.maxKeys && want.bytes <= u.maxBytes || size <= m.truth[key]
		r, err := u.reserve([][]put{{{key: []byte(key), size: int64(size)}}})
		if fits != (err == nil) {
			m.t.Errorf("a put of %d bytes: %v, and it would make %+v of %d keys, %d bytes", size, err, want, u.maxKeys, u.maxBytes)
		}
		if r != nil {
			u.settle(r, outcome{refused: true})
		}
	}
}
