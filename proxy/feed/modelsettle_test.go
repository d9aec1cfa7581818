package feed

import (
	"slices"
	"testing/synctest"
	"time"
)

// settleTime is enough for a dead connection to be noticed, and for everything else.
const settleTime = keepAlive + 7*time.Second

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
		time.Sleep(settleTime)
	}
	m.checkRejoined()
	m.dropClients()
	for _, c := range m.clients {
		m.await(c.isUpToDate)
	}
	m.checkProgress() // although nothing happens
	for range 6 {     // so that watches of the future begin
		m.cluster.write(fakeOp{"a/00", []byte("x")}, fakeOp{"b/c/0", []byte("x")})
	}
	time.Sleep(2 * time.Second)
	for _, c := range m.clients {
		m.await(c.isUpToDate)
	}
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

// await waits until something is so, or returns false when it is not after a long time. Fake members send history slowly.
func (m *model) await(isSo func() bool) bool {
	for range 1000 {
		synctest.Wait()
		if isSo() {
			return true
		}
		time.Sleep(time.Second)
	}
	return false
}

func (c *modelClient) isUpToDate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.cluster.mu.Lock()
	defer c.m.cluster.mu.Unlock()
	return !slices.ContainsFunc(c.watches, func(w *modelWatch) bool {
		if !w.live() {
			return w.canceled == nil && !w.over
		}
		e := w.epochs[len(w.epochs)-1]
		return w.compare(c.m, e, e.past.head(), nil) != nil
	})
}

// checkProgress asks for progress and wants all that has been asked for to be answered.
func (m *model) checkProgress() {
	for _, c := range m.clients {
		c.requestProgress()
	}
	for _, c := range m.clients {
		if !m.await(c.isAnswered) {
			m.fail("client %d is not told of the progress that it asked for at %v", c.name, c.asked)
		}
	}
}

func (c *modelClient) isAnswered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropAsked()
	// With some that may have been dropped, it cannot be told which of the others were answered.
	return len(c.asked) <= len(c.dropped)
}

// checkUnshared wants nothing to be served any more.
func (m *model) checkUnshared() {
	if apart, err := m.set.Share(m.t.Context()); apart == nil || err != nil {
		m.fail("with authentication on, watches are shared: %v, %v", apart, err)
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

// checkRejoined wants no stream to be forwarded any more.
func (m *model) checkRejoined() {
	for _, c := range m.clients {
		c.mu.Lock()
		if c.apart != nil && c.apart.Err() == nil {
			m.fail("client %d is still forwarded", c.name)
		}
		c.mu.Unlock()
	}
}

// checkNothingLeft is called when all clients have gone.
func (m *model) checkNothingLeft() {
	time.Sleep(cursorIdle + 3*time.Second)
	if n, fixed := m.cluster.watches(), m.fixedFeeds(); n != fixed {
		m.fail("%d watches upstream for no client, and %d fixed feeds", n, fixed)
	}
}

func (m *model) fixedFeeds() int {
	m.set.mu.Lock()
	defer m.set.mu.Unlock()
	return len(m.set.catalog.fixed)
}
