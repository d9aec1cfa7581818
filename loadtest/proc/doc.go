// Package proc builds the servers and tools that the tests and the load generator run, and runs them as real processes.
//
// Two nouns. A [Bin] is a folder of built programs: etcd in three versions, its tools, weir's core and proxy. A [Process]
// is one running program on its own ports and data directory; it can be asked, killed and started again, and keeps what
// it printed. Nothing here belongs to the test framework, so that a command can use it too.
//
// The invariant: a process that was started here is ended here, by its own id, and its last words are in every error
// that is about it. On Linux it ends too when its parent is killed, panics or runs out of time.
package proc
