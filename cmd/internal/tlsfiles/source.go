package tlsfiles

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// source is what a few files hold together, parsed. Whoever asks for it gets what the files hold now, or, if that cannot
// be used, the last that could. All methods may be called concurrently.
//
// A change shows in a file's stamp: which file it is, its size, and when it was modified. A file can change without its
// stamp doing so, if both changes fall into one tick of the file system's clock, so a file that was modified less than
// settled before it was read is read, though not parsed, again each time (git calls such a file racily clean). A tool that
// sets the old time again is found out by look, which goes by the content alone.
type source[T any] struct {
	files []file
	parse func(contents [][]byte) (T, error) // one element for each file
	set   *Set

	mu     sync.Mutex // guards all below
	value  T
	stamps []os.FileInfo     // of what was parsed last, whether it could be used or not; nil if the files cannot be read
	loose  bool              // the stamps would not show every change
	sum    [sha256.Size]byte // of what was parsed then; zero if the files cannot be read
	reason string            // why value is not what the files hold; as logged
}

// file is one that a flag names.
type file struct{ flag, path string }

func (f file) String() string { return "--" + f.flag + "=" + f.path }

// settled is how old a modification must be for its time to differ from that of the next. FAT has the coarsest clock.
const settled = 2 * time.Second

// newSource reads the files for the first time, when nothing replaces them. From then on it belongs to the set.
func newSource[T any](set *Set, parse func([][]byte) (T, error), files ...file) (*source[T], error) {
	s := &source[T]{files: files, parse: parse, set: set}
	err := s.update(s.stat())
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		err = fmt.Errorf("%w: give a file that this user can read", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", s.nameFor(err), err)
	}
	set.add(s)
	return s, nil
}

func (s *source[T]) name() string {
	var names []string
	for _, f := range s.files {
		names = append(names, f.String())
	}
	return strings.Join(names, " and ")
}

// inFile is an error of parse about one of the files.
type inFile struct {
	index int
	error
}

func (e inFile) Unwrap() error { return e.error }

// nameFor is the name of the file that an error is about, if it is about one.
func (s *source[T]) nameFor(err error) string {
	if one := (inFile{}); errors.As(err, &one) {
		return s.files[one.index].String()
	}
	return s.name()
}

// current returns what the files hold. The result is shared, and must not be changed.
func (s *source[T]) current() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stamps := s.stat(); s.loose || !same(stamps, s.stamps) {
		_, _ = s.settle(s.update(stamps)) // which tells the log
	}
	return s.value
}

// look reads the files, whatever their stamps say, and tells whether they were changed into something that is used from now on,
// or why what they hold is not used. A forced one parses them even if they have not changed.
func (s *source[T]) look(forced bool) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.sum
	if forced {
		s.sum, s.reason = [sha256.Size]byte{}, ""
	}
	err = s.update(s.stat())
	if forced && err == nil && s.sum == before {
		return false, nil
	}
	return s.settle(err)
}

// settle tells what has become of an update, once.
func (s *source[T]) settle(err error) (changed bool, refused error) {
	switch {
	case errors.Is(err, errSame):
	case err == nil:
		s.reason = ""
		s.set.log.Info("read changed TLS files", "files", s.name())
		s.set.note(nil)
		return true, nil
	case err.Error() != s.reason:
		s.reason = err.Error()
		s.set.log.Warn("changed TLS files cannot be used, what they held before stays in use", "files", s.nameFor(err), "error", s.reason)
		s.set.note(fmt.Errorf("%s: %w", s.nameFor(err), err))
	}
	if s.reason != "" {
		return false, errors.New(s.reason)
	}
	return false, nil
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

// errSame says that the files hold what was parsed last.
var errSame = errors.New("nothing has changed")

// update reads the files, whose stamps are from before. What cannot even be read, perhaps because this process is out of
// file descriptors, is forgotten, and so is read when it can be.
func (s *source[T]) update(stamps []os.FileInfo) error {
	contents, sum := make([][]byte, len(s.files)), sha256.New()
	for i, f := range s.files {
		var err error
		if contents[i], err = os.ReadFile(f.path); err != nil {
			s.stamps, s.loose, s.sum = nil, false, [sha256.Size]byte{}
			return err
		}
		fmt.Fprintf(sum, "%d:%s", len(contents[i]), contents[i])
	}
	before := s.sum
	s.stamps, s.loose, s.sum = stamps, slices.ContainsFunc(stamps, isLoose), [sha256.Size]byte(sum.Sum(nil))
	if s.sum == before {
		return errSame
	}
	value, err := s.parse(contents)
	if err == nil {
		s.value = value
	}
	return err
}

// isLoose tells whether a file could change again without another stamp.
func isLoose(stamp os.FileInfo) bool { return stamp == nil || time.Since(stamp.ModTime()) < settled }

func same(a, b []os.FileInfo) bool {
	return slices.EqualFunc(a, b, func(a, b os.FileInfo) bool {
		return a != nil && b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
	})
}
