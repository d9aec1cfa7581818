package tenants

import (
	"container/list"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound what one account may ask for. 0 is no bound. Who has asked for nothing for a second may ask for a second's worth
// at once.
type Limits struct {
	Requests float64 // a second: RPCs and watches. Keepalives are free, and so is the first watch on a stream, which has cost one
	Bytes    float64 // a second, of requests and of answers from upstream
	InFlight int     // unary RPCs and streams. As many streams of keepalives come on top
	Watches  int     // and streams of watches
}

// none tells whether nothing is limited.
func (l *Limits) none() bool { return *l == Limits{} }

// account is one client as far as limits are concerned: a tenant, whoever speaks for it, or a user, a common name or an address.
type account struct {
	who     Identity
	metered atomic.Bool // bytes are limited

	// Guarded by accounts.mu.
	visits int           // RPCs; while there are any, the account stays
	place  *list.Element // in accounts.idle, if there are none

	mu       sync.Mutex // guards what follows
	limits   Limits
	requests *rate.Limiter // nil without a limit
	bytes    meter
	doubts   meter
	open     [lanes]int
	watching int
}

func newAccount(who Identity, t *tenant) *account {
	a := &account{who: who, doubts: meter{rate: maxDoubts}}
	a.limit(t.limits)
	return a
}

// limit replaces the limits. What is open stays, and counts; what was spared or is owed stays, as far as the new limits have room
// for it.
func (a *account) limit(l Limits) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if l == a.limits {
		return
	}
	switch r := l.Requests; {
	case r == 0:
		a.requests = nil
	case a.limits.Requests == 0:
		a.requests = rate.NewLimiter(rate.Limit(r), burst(r))
	default:
		a.requests.SetLimitAt(now, rate.Limit(r))
		a.requests.SetBurstAt(now, burst(r))
	}
	a.bytes.change(now, l.Bytes)
	a.limits = l
	a.metered.Store(l.Bytes > 0)
}

// burst is a second's worth, but at least one.
func burst(perSecond float64) int { return int(math.Ceil(perSecond)) }

// maxDoubts is how many tokens a second of one address upstream may be asked about in vain.
const maxDoubts = 100

// After how long to come again, if it cannot be known when something of one's own ends.
const (
	callHint  = 100 * time.Millisecond
	watchHint = time.Second
)

// enter counts an RPC in, or tells why not, and after how long to come again. Free ones cost no request. size is of the
// request, in bytes.
func (a *account) enter(l lane, free bool, size int) (refusal, time.Duration) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	bound, why, hint := a.limits.InFlight, overInFlight, callHint
	if l == watchLane {
		bound, why, hint = a.limits.Watches, overWatches, watchHint
	}
	if bound > 0 && a.open[l] >= bound {
		return why, hint
	}
	if !free {
		if wait := a.spend(now); wait > 0 {
			return overRate, wait
		}
	}
	a.bytes.charge(now, size)
	a.open[l]++
	return admitted, 0
}

// spend takes one request from what is left, or tells when there is one.
func (a *account) spend(now time.Time) (wait time.Duration) {
	if wait = a.bytes.wait(now); wait > 0 || a.requests == nil {
		return wait
	}
	r := a.requests.ReserveN(now, 1)
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// watch counts a watch in, like enter.
func (a *account) watch(free bool) (refusal, time.Duration) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.limits.Watches > 0 && a.watching >= a.limits.Watches {
		return overWatches, watchHint
	}
	if !free {
		if wait := a.spend(now); wait > 0 {
			return overRate, wait
		}
	}
	a.watching++
	return admitted, 0
}

// doubt counts a token in of which nobody knows whether it is any good, or tells when there may be another one.
func (a *account) doubt() (wait time.Duration) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if wait = a.doubts.wait(now); wait == 0 {
		a.doubts.charge(now, 1)
	}
	return wait
}

// believe takes a doubt back.
func (a *account) believe() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doubts.charge(time.Now(), -1)
}

// charge counts bytes that have been moved already.
func (a *account) charge(size int) {
	if !a.metered.Load() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes.charge(time.Now(), size)
}

// unwatch counts n watches out.
func (a *account) unwatch(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watching -= n
}

// leave counts out what enter counted in.
func (a *account) leave(l lane) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[l]--
}

// meter is a token bucket that can be overdrawn: how many bytes an answer has is known only when it is there, and a single
// message may have more than a second's worth. Who has overdrawn waits until the debt is paid. (rate.Limiter never gives
// more than its burst at once.)
type meter struct {
	rate float64 // a second, and what is spared at most; 0 is no limit
	debt float64 // as of at; what is spared is negative
	at   time.Time
}

// charge takes n bytes.
func (m *meter) charge(now time.Time, n int) {
	if m.rate > 0 {
		m.settle(now)
		m.debt += float64(n)
	}
}

// change sets another rate.
func (m *meter) change(now time.Time, perSecond float64) {
	switch {
	case perSecond == 0 || m.rate == 0:
		*m = meter{rate: perSecond}
	default:
		m.settle(now)
		m.rate = perSecond
		m.settle(now) // less may be spared now
	}
}

// wait is how long until nothing is owed.
func (m *meter) wait(now time.Time) time.Duration {
	if m.rate == 0 {
		return 0
	}
	m.settle(now)
	if m.debt <= 0 {
		return 0
	}
	const longest = 1e9 // seconds; more is no Duration
	return time.Duration(min(m.debt/m.rate, longest) * float64(time.Second))
}

// settle pays what time has brought. The zero meter begins with a second's worth.
func (m *meter) settle(now time.Time) {
	if m.at.IsZero() {
		m.debt = -m.rate
	} else if passed := now.Sub(m.at); passed >= 0 {
		m.debt = max(-m.rate, m.debt-m.rate*passed.Seconds())
	}
	m.at = now
}
