package busiest

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Counter finds the names that are seen most often.
//
// The idea is that of space-saving (Metwally, Agrawal and El Abbadi 2005): when there is no room for a new name, it takes the
// place of the one with the lowest score, and its score with it. A name that makes up more than one in maxNames of all is so
// never missing, and scores are too high by no more than the lowest one. Scores halve every halfLife, so that they are of the
// last minute or two. Of what happens one in Step is looked at, by chance: whoever is busy is met often enough.
//
// Rejected: a count of every name, which clients could make grow without end; and the heat of the proxy's reads, which knows of
// forwarded ones alone, while what is busiest is in memory.
//
// The zero value is empty. All methods may be called concurrently.
type Counter struct {
	mu    sync.Mutex // guards the fields below
	names map[string]*score
	began time.Time // the instant at which a sample counts 1
}

// score is one name's. It counts later samples higher instead of lowering earlier ones.
type score struct{ sum float64 }

// Entry is a name and how often it is seen.
type Entry struct {
	Name      string
	PerSecond float64 // about
}

const (
	// Step is how many are represented by one that is looked at.
	Step = 64

	maxNames = 256
	maxName  = 512 // bytes
	halfLife = 30 * time.Second
	rebase   = 64 * halfLife // before numbers grow too high
)

// Sampled tells, of about one call in Step, that what happens is to be added.
func Sampled() bool { return rand.Uint32()%Step == 0 }

// Add adds what was sampled.
func (c *Counter) Add(name string) { c.add(time.Now(), name) }

func (c *Counter) add(now time.Time, name string) {
	if len(name) > maxName {
		name = strings.Clone(name[:maxName]) // or all of it would be kept in memory
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(now)
	s := c.names[name]
	if s == nil {
		s = &score{}
		if len(c.names) >= maxNames {
			lowest, of := c.lowest()
			s.sum = of.sum
			delete(c.names, lowest)
		}
		c.names[name] = s
	}
	s.sum += math.Exp2(float64(now.Sub(c.began)) / float64(halfLife))
}

// settle begins anew with what is left, if it is time. c.mu is held.
func (c *Counter) settle(now time.Time) {
	if c.names == nil {
		c.names, c.began = map[string]*score{}, now
	}
	if now.Sub(c.began) < rebase {
		return
	}
	left := math.Exp2(-float64(now.Sub(c.began)) / float64(halfLife))
	for name, s := range c.names {
		if s.sum *= left; s.sum < 1e-3 {
			delete(c.names, name)
		}
	}
	c.began = now
}

// lowest is called with c.mu held.
func (c *Counter) lowest() (name string, s *score) {
	for n, of := range c.names {
		if s == nil || of.sum < s.sum {
			name, s = n, of
		}
	}
	return name, s
}

// Top returns at most n entries, the busiest first.
func (c *Counter) Top(n int) []Entry { return c.top(time.Now(), n) }

func (c *Counter) top(now time.Time, n int) []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A steady rate has come to rate * halfLife / ln 2.
	scale := Step * math.Ln2 / halfLife.Seconds() * math.Exp2(-float64(now.Sub(c.began))/float64(halfLife))
	all := make([]Entry, 0, len(c.names))
	for name, s := range c.names {
		if e := (Entry{name, s.sum * scale}); e.PerSecond >= 0.01 {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(n, len(all))]
}
