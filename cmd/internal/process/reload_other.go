//go:build !unix

package process

// SurviveSignals does nothing: there are none on this system.
func SurviveSignals() (stop func()) { return func() {} }

// notifySignals tells of no signal: there are none on this system.
func notifySignals() (to <-chan order, stop func()) { return nil, func() {} }
