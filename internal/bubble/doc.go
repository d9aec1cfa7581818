// Package bubble runs tests in fake time: testing/synctest, made safe beside the race detector.
//
// A bubble keeps one context of the race detector for all its timers, and each goroutine that looks at a due timer's
// channel uses it, without a lock. Two doing so at one instant break the detector's own state, and the process ends by
// SIGSEGV in __tsan::SlotLock or by a failed CHECK (Go issue 78156, open in Go 1.26). So while a bubble is there the
// process runs Go code on one P. The detector finds what it finds by the order of synchronization, not by chance in
// time, so that costs none of its findings.
//
// Tests of any package call Test instead of synctest.Test; house_test.go sees to that. It goes when the issue is closed.
package bubble
