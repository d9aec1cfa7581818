//go:build !unix

package process

// notifySignals tells of no signal: there are none on this system.
func notifySignals() (to <-chan order, stop func()) { return nil, func() {} }
