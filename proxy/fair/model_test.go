package fair

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"
)

// model is the pool's rules written down without its haste: whenever something happens everybody is charged and looked at.
type model struct {
	slots    int
	accounts map[string]*modelAccount
	passing  []*modelCall // that hold slots which are not counted for their accounts yet
	virtual  float64
}

type modelAccount struct {
	weight, inUse int
	tag           float64
	waiting       []*modelCall
}

// modelCall is a call that waits at the pool, or holds a slot.
type modelCall struct {
	account string
	weight  int
	cancel  context.CancelFunc
	*call
}

func (m *model) used() int {
	n := len(m.passing)
	for _, a := range m.accounts {
		n += a.inUse
	}
	return n
}

func (m *model) weights() (n int) {
	for _, a := range m.accounts {
		n += a.weight
	}
	return n
}

func (m *model) pass(d time.Duration) {
	if len(m.waiting()) == 0 {
		return
	}
	m.virtual += float64(m.used()) * d.Seconds() / float64(m.weights())
	for _, a := range m.accounts {
		a.tag += float64(a.inUse) * d.Seconds() / float64(a.weight)
	}
}

// come tells whether a call that comes is given a slot at once.
func (m *model) come(c *modelCall) bool {
	if len(m.waiting()) == 0 {
		if m.used() < m.slots {
			m.passing = append(m.passing, c)
			return true
		}
		m.count()
	}
	a := m.account(c)
	a.waiting = append(a.waiting, c)
	return false
}

func (m *model) account(c *modelCall) *modelAccount {
	a := m.accounts[c.account]
	if a == nil {
		a = &modelAccount{weight: c.weight}
		m.accounts[c.account] = a
	}
	if len(a.waiting) == 0 {
		a.tag = max(a.tag, m.virtual)
	}
	return a
}

// count counts all slots for their accounts.
func (m *model) count() {
	virtual := m.virtual
	for _, c := range m.passing {
		a := m.account(c)
		a.inUse++
		virtual = max(virtual, a.tag)
	}
	m.passing, m.virtual = nil, virtual
}

// leave gives a slot back.
func (m *model) leave(c *modelCall) {
	if i := slices.Index(m.passing, c); i >= 0 {
		m.passing = slices.Delete(m.passing, i, i+1)
		return
	}
	m.accounts[c.account].inUse--
	m.forgetIdle()
}

// due returns the accounts of which one must be served next: several if their tags are too close to tell by floats.
func (m *model) due() []string {
	var below, all []string
	for name, a := range m.accounts {
		if len(a.waiting) == 0 {
			continue
		}
		all = append(all, name)
		if float64(a.inUse) < float64(m.slots)*float64(a.weight)/float64(m.weights()) {
			below = append(below, name)
		}
	}
	if len(below) > 0 {
		all = below
	}
	lowest := 0.
	for i, name := range all {
		if tag := m.accounts[name].tag; i == 0 || tag < lowest {
			lowest = tag
		}
	}
	return slices.DeleteFunc(all, func(name string) bool { return m.accounts[name].tag > lowest+1e-9 })
}

// serve gives a slot to the first call that waits for an account.
func (m *model) serve(account string) *modelCall {
	a := m.accounts[account]
	c := a.waiting[0]
	a.waiting = a.waiting[1:]
	a.inUse++
	m.virtual = max(m.virtual, a.tag)
	return c
}

func (m *model) forgetIdle() {
	for name, a := range m.accounts {
		if a.inUse == 0 && len(a.waiting) == 0 {
			delete(m.accounts, name)
		}
	}
	if len(m.accounts) == 0 {
		m.virtual = 0
	}
}

func TestThePoolServesWhomTheRulesSay(t *testing.T) {
	for seed := range uint64(60) {
		bubble.Test(t, func(t *testing.T) { followModel(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// followModel takes random steps at a pool and at the model. There is at most one call of all that wait for which a step
// can mean a slot.
func followModel(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	var (
		slots   = 1 + random.IntN(6)
		names   = 1 + random.IntN(8)
		busy    = 1 + random.IntN(8) // of ten steps, those with a new call
		p       = newPool(slots)
		m       = &model{slots: slots, accounts: map[string]*modelAccount{}}
		holding []*modelCall
	)
	for step := range 400 {
		d := time.Duration(random.IntN(3000)) * time.Microsecond
		time.Sleep(d)
		m.pass(d)
		switch n := random.IntN(10); {
		case n < busy:
			ctx, cancel := context.WithCancel(t.Context())
			who := random.IntN(names)
			c := &modelCall{account: fmt.Sprint(who), weight: 1 + who%3, cancel: cancel}
			c.call = waitAs(ctx, p, c.account, c.weight, 0)
			if m.come(c) {
				holding = append(holding, c)
			}
		case n == 9:
			waiting := m.waiting()
			if len(waiting) == 0 {
				continue
			}
			c := waiting[random.IntN(len(waiting))]
			c.cancel()
			if err := <-c.err; err == nil {
				t.Fatalf("step %d: a call that was cancelled while it waited has a slot", step)
			}
			a := m.accounts[c.account]
			a.waiting = slices.DeleteFunc(a.waiting, func(other *modelCall) bool { return other == c })
			m.forgetIdle()
		case len(holding) > 0:
			i := random.IntN(len(holding))
			c := holding[i]
			holding = slices.Delete(holding, i, i+1)
			c.cancel()
			c.slot.Release()
			synctest.Wait()
			m.leave(c)
			if due := m.due(); len(due) > 0 {
				holding = append(holding, m.serve(served(t, m, due)))
			}
		}
		for _, c := range holding {
			select {
			case err := <-c.err:
				if err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				c.err = nil // asked once
			default:
				if c.err != nil {
					t.Fatalf("step %d: a call of account %s waits that must have a slot", step, c.account)
				}
			}
		}
		for _, c := range m.waiting() {
			if len(c.err) > 0 {
				t.Fatalf("step %d: a call of account %s was given a slot out of turn", step, c.account)
			}
		}
		if random.IntN(4) > 0 {
			continue // to be looked at is to be counted
		}
		m.count()
		if s := p.Stats(); s.InUse != len(holding) || s.InUse > slots || s.Accounts != len(m.accounts) || s.Queued != len(m.waiting()) {
			t.Fatalf("step %d: %+v, but %d hold slots, %d wait, of %d accounts", step, s, len(holding), len(m.waiting()), len(m.accounts))
		}
	}
	for _, c := range m.waiting() {
		c.cancel()
		if err := <-c.err; err == nil {
			t.Errorf("a call that was cancelled while it waited has a slot")
		}
	}
	for _, c := range holding {
		c.cancel()
		c.slot.Release()
	}
	checkEmpty(t, p)
}

func (m *model) waiting() (all []*modelCall) {
	for _, name := range slices.Sorted(maps.Keys(m.accounts)) {
		all = append(all, m.accounts[name].waiting...)
	}
	return all
}

// served returns which of the accounts whose turn it can be the pool has served.
func served(t *testing.T, m *model, due []string) string {
	t.Helper()
	for _, name := range due {
		if len(m.accounts[name].waiting[0].err) > 0 {
			return name
		}
	}
	t.Fatalf("none of the accounts %v was served, whose turn it was", due)
	return ""
}
