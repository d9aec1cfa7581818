package reads

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// TestWhatIsKeptIsWhatTheStoreHas does random things to a store and to what is kept of it. After each it looks at every
// snapshot that reads could find: each state that it claims to have must be the store's, and all together must be
// within their bound.
func TestWhatIsKeptIsWhatTheStoreHas(t *testing.T) {
	for seed := range uint64(10) {
		bubble.Test(t, func(t *testing.T) {
			m := newModel(t, seed)
			for range 400 {
				m.step()
				m.check()
			}
			m.end()
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

type model struct {
	*world
	rnd     *rand.Rand
	waiting int
	arrived chan error // of those who wait
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{rnd: rand.New(rand.NewPCG(seed, 4)), arrived: make(chan error, 1000)}
	cfg := Config{Bytes: []int{1 << 20, 100 << 10, 30 << 10}[m.rnd.IntN(3)]}
	switch m.rnd.IntN(4) {
	case 0:
		cfg.Fixed = []string{"a/"}
	case 1:
		cfg.Fixed = []string{"", "b/x/"}
	}
	var fill []op
	for range m.rnd.IntN(30) {
		fill = append(fill, op{key: fmt.Sprintf("a/x/%02d", len(fill)), value: m.value()})
	}
	m.world = newWorld(t, fill...)
	m.world.answer = m.badAnswer
	m.start(cfg)
	return m
}

func (m *model) key() string {
	return string("ab"[m.rnd.IntN(2)]) + []string{"/x/", "/y/", "/"}[m.rnd.IntN(3)] + fmt.Sprintf("%02d", m.rnd.IntN(20))
}

// value is most often small.
func (m *model) value() []byte {
	n := m.rnd.IntN(60)
	if m.rnd.IntN(5) == 0 {
		n = m.rnd.IntN(3000)
	}
	return make([]byte, n)
}

func (m *model) ops() []op {
	ops := map[string]op{}
	for range 1 + m.rnd.IntN(4) {
		o := op{key: m.key(), value: m.value()}
		if m.rnd.IntN(4) == 0 {
			o.value = nil
		}
		ops[o.key] = o
	}
	var list []op
	for _, o := range ops {
		list = append(list, o)
	}
	return list
}

// request is any that may make a range hot.
func (m *model) request() *pb.RangeRequest {
	key := m.key()
	switch m.rnd.IntN(6) {
	case 0, 1:
		return get(key)
	case 2:
		return listOf(key[:2])
	case 3:
		return listOf(key[:len(key)-2])
	case 4:
		return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte{0}, Limit: int64(m.rnd.IntN(5))}
	}
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(m.key()), CountOnly: m.rnd.IntN(2) == 0}
}

// badAnswer is one of the answers that loads are given: now and then late, or none, or of the wrong cluster, with writes
// before and after it.
func (m *model) badAnswer(ctx context.Context, r *pb.RangeRequest) (wire.Raw, error) {
	if r.Limit == 0 {
		return m.read(r)
	}
	m.mu.Lock()
	kind, ops, pause := m.rnd.IntN(12), m.ops(), time.Duration(m.rnd.IntN(400))*time.Millisecond
	m.mu.Unlock()
	switch kind {
	case 0:
		return nil, errors.New("upstream fails")
	case 1:
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case 2, 3:
		m.write(ops...)
	}
	raw, err := m.read(r)
	switch kind {
	case 4:
		m.write(ops...)
	case 5:
		var resp pb.RangeResponse
		decode(m.t, raw, &resp)
		resp.Header.ClusterId++
		return encode(&resp), err
	case 6:
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return raw, err
}

// step does one thing and lets everything come to rest.
func (m *model) step() {
	m.mu.Lock()
	kind := m.rnd.IntN(100)
	ops, r, n, pause := m.ops(), m.request(), m.rnd.Int64N(8), time.Duration(m.rnd.IntN(900))*time.Millisecond
	head := m.store.revision()
	m.mu.Unlock()
	switch {
	case kind < 35:
		m.write(ops...)
	case kind < 55:
		for range 1 + 3*n {
			m.readOnce(r)
		}
	case kind < 65:
		m.await(r)
	case kind < 70:
		m.set(func() { m.quiet = !m.quiet })
	case kind < 72:
		m.set(func() { m.mute = !m.mute })
	case kind < 76:
		m.set(func() { m.publish(n) })
	case kind < 80:
		m.set(func() { m.store.compacted = max(m.store.compacted, head-3*n) })
	case kind < 81:
		m.rare(int(n))
	default:
		time.Sleep(pause)
	}
	synctest.Wait()
}

// rare does what often voids much.
func (m *model) rare(kind int) {
	switch kind {
	case 0, 1:
		m.cancelWatches(errors.New("the watch cannot go on"))
	case 2:
		m.replace(newNaive())
	case 3:
		time.Sleep(time.Minute)
	case 4:
		m.hub.End(errors.New("reads are not shared any more"))
	default:
		m.set(func() { m.standing.Connected = !m.standing.Connected || kind == 5 })
	}
}

// readOnce is from memory, or forwarded.
func (m *model) readOnce(r *pb.RangeRequest) {
	if h := m.keeper.find(r.Key, r.RangeEnd); h != nil {
		h.used(100 * time.Microsecond)
		return
	}
	m.forward(r)
}

// await has somebody wait for the store's revision, as a read does after a check.
func (m *model) await(r *pb.RangeRequest) {
	h := m.keeper.find(r.Key, r.RangeEnd)
	if h == nil {
		return
	}
	m.mu.Lock()
	head, era := m.store.revision(), m.standing.Era
	m.mu.Unlock()
	m.waiting++
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		err := h.await(ctx, head)
		if err == nil && m.Standing().Era == era {
			if got := h.snap.Revision(); got < head {
				err = fmt.Errorf("range %s is at %d and not at %d, as waited for", h, got, head)
			}
		} else {
			err = nil
		}
		m.arrived <- err
	}()
}

// check looks at everything that is kept, when nothing goes on.
func (m *model) check() {
	m.t.Helper()
	for len(m.arrived) > 0 {
		m.waiting--
		if err := <-m.arrived; err != nil {
			m.t.Fatal(err)
		}
	}
	k := m.keeper
	k.mu.Lock()
	var loaded []*hot
	held := 0
	for h := range k.hots {
		held += h.takes()
		if h.isLoaded() {
			loaded = append(loaded, h)
		}
	}
	k.mu.Unlock()
	m.mu.Lock()
	watchers := m.feed.Stats().Watchers
	m.mu.Unlock()
	if watchers != len(k.hots) {
		m.t.Fatalf("%d watches are open for %d ranges", watchers, len(k.hots))
	}
	if counted := int(k.held.Load()); counted != held || counted > k.limit {
		m.t.Fatalf("%d bytes are counted of %d that are taken; the bound is %d", counted, held, k.limit)
	}
	for _, h := range loaded {
		m.checkHot(h)
	}
}

func (m *model) checkHot(h *hot) {
	m.t.Helper()
	m.mu.Lock()
	head, era, behind := m.store.revision(), m.standing.Era, m.quiet || m.mute
	published := m.feed.Revision()
	m.mu.Unlock()
	if h.era != era {
		return // it is dropped at the next turn, and reads do not use it
	}
	if h.dropped() {
		m.t.Fatalf("range %s has ended and is still there", h)
	}
	if found := m.keeper.find(h.span.Key, h.span.End); found == nil || !found.contains(h.interval) {
		m.t.Fatalf("range %s is kept and not found", h)
	}
	oldest, newest := h.snap.Oldest(), h.snap.Revision()
	if newest > head {
		m.t.Fatalf("range %s is at %d, and the store at %d", h, newest, head)
	}
	m.same(h, 0)
	for rev := oldest; rev <= newest; rev++ {
		m.same(h, rev)
	}
	if !behind && published == head { // what has been delivered is there
		view, _ := h.snap.View(0)
		m.mu.Lock()
		want := len(m.store.in(h.span.Key, h.span.End, head))
		m.mu.Unlock()
		if _, count := view.Range(h.span.Key, h.span.End, 1); count != int64(want) {
			m.t.Fatalf("range %s has %d keys, and the store %d", h, count, want)
		}
	}
}

// end closes everything, and sees that nobody waits for ever.
func (m *model) end() {
	m.keeper.Close()
	synctest.Wait()
	for ; m.waiting > 0; m.waiting-- {
		if err := <-m.arrived; err != nil {
			m.t.Fatal(err)
		}
	}
	if s := m.keeper.Stats(); s.Ranges != 0 || s.Bytes != 0 {
		m.t.Fatalf("after Close there is still %+v", s)
	}
}
