package tlsfiles

import (
	"errors"
	"log/slog"
	"sync"
)

// Set is the TLS files of a process. Those that Load and Dial have read belong to it. All methods may be called concurrently.
type Set struct {
	log  *slog.Logger
	note func(error)

	mu      sync.Mutex // guards what follows
	sources []looker
}

// looker is a source, of whatever.
type looker interface {
	look(forced bool) (changed bool, err error)
}

// NewSet makes an empty set, which tells logger of what it finds. note is told the same if it is not nil: nil of files that have
// changed and are used from now on, else, once, the error for which they are not. It must not wait.
func NewSet(logger *slog.Logger, note func(error)) *Set {
	if note == nil {
		note = func(error) {}
	}
	return &Set{log: logger, note: note}
}

func (s *Set) add(l looker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sources = append(s.sources, l)
}

// Look finds out which files have changed, by what they hold. Handshakes do so by themselves; this is for whom a change, or a
// mistake in it, is to be known before there is one. A forced Look parses all files anew. It tells whether there was a change that
// counts from now on, and what is wrong with those files that are not used as they are.
func (s *Set) Look(forced bool) (changed bool, err error) {
	s.mu.Lock()
	sources := s.sources // of which elements are only added
	s.mu.Unlock()
	var errs []error
	for _, one := range sources {
		did, err := one.look(forced)
		changed = changed || did
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}
