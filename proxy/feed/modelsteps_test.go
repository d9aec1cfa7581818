package feed

import (
	"fmt"
	"slices"
	"time"

	"weir/coalesce"
)

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
