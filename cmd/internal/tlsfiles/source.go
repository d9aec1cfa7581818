package tlsfiles

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// source is what a few files hold together, parsed. Whoever asks for it gets what the files hold now, or, if that cannot
// be used, the last that could. All methods may be called concurrently.
//
// A change shows in a file's stamp: which file it is, its size, and when it was modified. A file can change without its
// stamp doing so, if both changes fall into one tick of the file system's clock, so a file that was modified less than
// settled before it was read is read again each time (as git does, "racily clean").
type source[T any] struct {
	files []file
	parse func(contents [][]byte) (T, error) // one element for each file
	log   *slog.Logger

	mu     sync.Mutex // guards all below
	value  T
	stamps []os.FileInfo // of what was parsed last, successfully or not; nil for a file that was not there
	loose  bool          // the stamps would not show every change
	reason string        // why value is not what the files hold; as logged
}

// file is one that a flag names.
type file struct{ flag, path string }

func (f file) String() string { return "--" + f.flag + "=" + f.path }

// settled is how old a modification must be for its time to differ from that of the next. FAT has the coarsest clock.
const settled = 2 * time.Second

// newSource reads the files for the first time, when nothing replaces them.
func newSource[T any](log *slog.Logger, parse func([][]byte) (T, error), files ...file) (*source[T], error) {
	s := &source[T]{files: files, parse: parse, log: log}
	if err := s.read(s.stat()); err != nil {
		return nil, fmt.Errorf("load %s: %w", s.name(), err)
	}
	return s, nil
}

func (s *source[T]) name() string {
	var names []string
	for _, f := range s.files {
		names = append(names, f.String())
	}
	return strings.Join(names, " and ")
}

// current returns what the files hold. The result is shared, and must not be changed.
func (s *source[T]) current() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	stamps := s.stat()
	if !s.loose && same(stamps, s.stamps) {
		return s.value
	}
	changed := !same(stamps, s.stamps)
	err := s.read(stamps)
	switch {
	case err != nil && err.Error() != s.reason:
		s.reason = err.Error()
		s.log.Warn("changed TLS files cannot be used, what they held before stays in use", "files", s.name(), "error", s.reason)
	case err == nil && (changed || s.reason != ""):
		s.reason = ""
		s.log.Info("read changed TLS files", "files", s.name())
	}
	return s.value
}

func (s *source[T]) stat() []os.FileInfo {
	stamps := make([]os.FileInfo, len(s.files))
	for i, f := range s.files {
		if info, err := os.Stat(f.path); err == nil {
			stamps[i] = info
		}
	}
	return stamps
}

// read parses the files, whose stamps are from before. What cannot even be read, perhaps because this process is out of
// file descriptors, leaves the old stamps, and so is tried again.
func (s *source[T]) read(stamps []os.FileInfo) error {
	contents := make([][]byte, len(s.files))
	for i, f := range s.files {
		var err error
		if contents[i], err = os.ReadFile(f.path); err != nil {
			return err
		}
	}
	s.stamps, s.loose = stamps, false
	for _, stamp := range stamps {
		s.loose = s.loose || stamp == nil || time.Since(stamp.ModTime()) < settled
	}
	value, err := s.parse(contents)
	if err != nil {
		return err
	}
	s.value = value
	return nil
}

func same(a, b []os.FileInfo) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] == nil || b[i] == nil || !os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) {
			return false
		}
	}
	return true
}
