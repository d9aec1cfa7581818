package process

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Reloader keeps a running process true to the files that it was started with. Every lookInterval it has each part look at its
// files, and at once when it is told to by a signal (SIGHUP); it remembers what became of that, and says so. Two more signals change
// the log level: SIGUSR1 makes it debug, SIGUSR2 what it is configured to be.
//
// It looks at what files hold. Rejected: to be told of changes by the operating system, which misses the replacement of a directory
// above the file (Kubernetes changes mounted files so), and has to be done in another way on each system. Files that are read every
// few seconds cost nothing.
//
// Parts are added before Run. All other methods may be called concurrently.
type Reloader struct {
	log   *Log
	parts []part
	now   func() time.Time

	mu    sync.Mutex // guards what follows
	state map[string]*ReloadStatus
	said  map[string]string // of each part, the refusal that was logged last
}

// part is something that is read from files.
type part struct {
	what string
	look func(forced bool) error
}

// ReloadStatus is what has become of one part.
type ReloadStatus struct {
	What     string `json:"what"`
	Reloaded uint64 `json:"reloaded"` // how often something else has counted since then
	Refused  uint64 `json:"refused"`  // how often what files held could not be used
	// At is when something was reloaded last; not there if nothing was.
	At *time.Time `json:"at,omitempty"`
	// Stale says that files hold something now that is not used: LastRefusal says why.
	Stale         bool       `json:"stale"`
	LastRefusal   string     `json:"last_refusal,omitempty"`
	LastRefusalAt *time.Time `json:"last_refusal_at,omitempty"`
	// MendedAt is when that was over; not there while it is not. After keepMended there is neither.
	MendedAt *time.Time `json:"mended_at,omitempty"`
	// AwaitingRestart are flags that files have another value for now, which counts only after a restart.
	AwaitingRestart []string `json:"awaiting_restart,omitempty"`
}

// keepMended is how long a refusal that is over is still told of.
const keepMended = time.Hour

// Reloads is what has become of all parts, for people.
type Reloads struct {
	LogLevel string         `json:"log_level"`
	Reloads  []ReloadStatus `json:"reloads"`
}

// Reloads is as of now.
func (r *Reloader) Reloads() Reloads { return Reloads{r.log.Level(), r.Status()} }

// lookInterval is how often files are looked at. What has changed counts when it was found twice, see Steady.
const lookInterval = 2 * time.Second

// NewReloader makes one of no parts.
func NewReloader(log *Log) *Reloader {
	return &Reloader{log: log, now: time.Now, state: map[string]*ReloadStatus{}, said: map[string]string{}}
}

// Add adds a part. look finds out whether files have changed, applies what they hold now, and calls Applied or Refused (or Note) when
// something has become of that. It returns why what files hold now is not used, nil if it is. A forced look is one that somebody has
// asked for: it need not find a change twice. Looks are made one after the other, by Run.
func (r *Reloader) Add(what string, look func(forced bool) error) {
	r.parts = append(r.parts, part{what, look})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state[what] = &ReloadStatus{What: what}
}

// Run looks at files until ctx ends.
func (r *Reloader) Run(ctx context.Context) {
	signals, stop := notifySignals()
	defer stop()
	r.run(ctx, signals)
}

func (r *Reloader) run(ctx context.Context, signals <-chan order) {
	ticks := time.NewTicker(lookInterval)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			r.look(false)
		case s := <-signals:
			r.handle(s)
		}
	}
}

// order is what a signal asks for.
type order uint8

const (
	reloadNow order = iota
	logMore
	logLess
)

func (r *Reloader) handle(o order) {
	switch o {
	case reloadNow:
		r.log.Info("told to reload")
		before := r.reloaded()
		r.look(true)
		if stale, awaiting := r.left(); len(stale) > 0 || len(awaiting) > 0 {
			r.log.Warn("reloaded, but not all of it", "not-reloaded", stale, "awaiting-restart", awaiting)
		} else if r.reloaded() == before {
			r.log.Info("reloaded all there is: nothing has changed")
		} else {
			r.log.Info("reloaded all there is")
		}
	case logMore:
		r.log.SetVerbose(true)
		r.log.Info("the log level is debug now, until SIGUSR2")
	case logLess:
		r.log.SetVerbose(false)
		r.log.Warn("the log level is the configured one again", "log-level", r.log.Level())
	}
}

func (r *Reloader) look(forced bool) {
	for _, p := range r.parts {
		if forced {
			r.mu.Lock()
			r.said[p.what] = "" // who has asked is told again
			r.mu.Unlock()
		}
		err := p.look(forced)
		r.mu.Lock()
		s := r.state[p.what]
		if s.Stale = err != nil; !s.Stale && s.LastRefusal != "" && s.MendedAt == nil {
			now := r.now().UTC()
			s.MendedAt = &now
		}
		r.mu.Unlock()
	}
}

// reloaded is how often something else has counted, of all parts.
func (r *Reloader) reloaded() (n uint64) {
	for _, s := range r.Status() {
		n += s.Reloaded
	}
	return n
}

// left is what files hold that does not count: the parts that are stale, and the flags that await a restart. Neither is nil: a log
// has them as lists.
func (r *Reloader) left() (whats, flags []string) {
	whats, flags = []string{}, []string{}
	for _, s := range r.Status() {
		if s.Stale {
			whats = append(whats, s.What)
		}
		flags = append(flags, s.AwaitingRestart...)
	}
	return whats, flags
}

// awaitRestart says which flags have another value in the files of a part, that counts only after a restart.
func (r *Reloader) awaitRestart(what string, flags []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state[what].AwaitingRestart = flags
}

// Applied says that what files hold counts from now on: these parts of it have changed.
func (r *Reloader) Applied(what string, changed ...string) {
	r.Note(what, nil)
	r.mu.Lock()
	r.said[what] = ""
	r.mu.Unlock()
	r.log.Info("reloaded", "what", what, "changed", changed)
}

// Refused says that what files hold cannot be used, and what they held before stays in use. The same refusal is logged and counted
// once.
func (r *Reloader) Refused(what string, err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	r.mu.Lock()
	again := r.said[what] == text
	r.said[what] = text
	r.mu.Unlock()
	if again {
		return
	}
	r.Note(what, err)
	r.log.Warn("not reloaded, what was there before stays in use", "what", what, "error", text)
}

// Note counts what has become of a part whose owner tells the log of it: nil if something else counts from now on, or why not.
func (r *Reloader) Note(what string, err error) {
	now := r.now().UTC()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state[what]
	if err == nil {
		s.Reloaded++
		s.At = &now
		return
	}
	s.Refused++
	s.LastRefusal, s.LastRefusalAt, s.MendedAt = strings.ReplaceAll(err.Error(), "\n", "; "), &now, nil
}

// Status is of each part, in the order in which they were added.
func (r *Reloader) Status() []ReloadStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []ReloadStatus
	for _, p := range r.parts {
		s := *r.state[p.what]
		if s.MendedAt != nil && r.now().Sub(*s.MendedAt) >= keepMended {
			s.LastRefusal, s.LastRefusalAt, s.MendedAt = "", nil, nil
		}
		all = append(all, s)
	}
	return all
}

var (
	reloads    = prometheus.NewDesc("weir_reloads_total", "How often what a file holds was taken over while the process runs, or refused.", []string{"what", "result"}, nil)
	reloadedAt = prometheus.NewDesc("weir_reload_last_timestamp_seconds", "When something was taken over last, as Unix time; 0 if nothing was.", []string{"what"}, nil)
	stale      = prometheus.NewDesc("weir_reload_refused", "1 while a file holds what was refused, so that what was there before is in use.", []string{"what"}, nil)
	awaiting   = prometheus.NewDesc("weir_reload_awaiting_restart", "How many flags have another value in files than the one that counts until a restart.", []string{"what"}, nil)
)

// Describe is part of prometheus.Collector.
func (r *Reloader) Describe(descs chan<- *prometheus.Desc) {
	descs <- reloads
	descs <- reloadedAt
	descs <- stale
	descs <- awaiting
}

// Collect is part of prometheus.Collector.
func (r *Reloader) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range r.Status() {
		metrics <- prometheus.MustNewConstMetric(reloads, prometheus.CounterValue, float64(s.Reloaded), s.What, "applied")
		metrics <- prometheus.MustNewConstMetric(reloads, prometheus.CounterValue, float64(s.Refused), s.What, "refused")
		at, refused := 0.0, 0.0
		if s.At != nil {
			at = float64(s.At.UnixNano()) / 1e9
		}
		if s.Stale {
			refused = 1
		}
		metrics <- prometheus.MustNewConstMetric(reloadedAt, prometheus.GaugeValue, at, s.What)
		metrics <- prometheus.MustNewConstMetric(stale, prometheus.GaugeValue, refused, s.What)
		metrics <- prometheus.MustNewConstMetric(awaiting, prometheus.GaugeValue, float64(len(s.AwaitingRestart)), s.What)
	}
}

// Steady tells which of the contents that look after look finds is to be judged: one that the look before has found too, so that
// neither a file that is being written nor one that is away for a moment counts. The zero value has judged nothing; Start says what
// there is at the start.
type Steady struct{ seen, judged [sha256.Size]byte }

// Start says that this is in use already.
func (s *Steady) Start(content ...string) { s.judged = sumOf(content) }

// Judge tells whether this, that a look has found, is to be judged now. It is so once, or each time that a look is forced.
func (s *Steady) Judge(forced bool, content ...string) bool {
	sum := sumOf(content)
	twice := sum == s.seen
	s.seen = sum
	if !forced && (sum == s.judged || !twice) {
		return false
	}
	s.judged = sum
	return true
}

// Judged tells whether this was judged last.
func (s *Steady) Judged(content ...string) bool { return sumOf(content) == s.judged }

func sumOf(content []string) [sha256.Size]byte {
	sum := sha256.New()
	for _, c := range content {
		fmt.Fprintf(sum, "%d:%s", len(c), c)
	}
	return [sha256.Size]byte(sum.Sum(nil))
}
