package process

import (
	"errors"
	"fmt"
	"strings"
)

// Mistakes collects what is wrong with how a program is started, so that one start tells of all of it. The zero value is ready.
type Mistakes struct{ errs []error }

// Addf adds an error, made as by fmt.Errorf.
func (m *Mistakes) Addf(format string, args ...any) { m.Add(fmt.Errorf(format, args...)) }

// Add adds an error, unless it is nil, and tells whether it was.
func (m *Mistakes) Add(err error) (ok bool) {
	m.errs = append(m.errs, err) // errors.Join leaves nil out
	return err == nil
}

// Err joins all that was added, for Each to take apart; nil is nothing.
func (m *Mistakes) Err() error { return errors.Join(m.errs...) }

// Each returns the errors that errors.Join has put together, of which some may be joined themselves; none for nil.
func Each(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return nil
	case !ok || !strings.Contains(err.Error(), "\n"):
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, Each(e)...)
	}
	return all
}
