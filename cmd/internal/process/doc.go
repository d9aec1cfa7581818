// Package process is what both commands do around their work: flags that may come from the environment, logs as
// etcd writes them, one line for a mistake, metrics of the process, and limits for Go's memory manager.
//
// The nouns:
//
//   - Flags: a flag set whose flags may also be given as environment variables and in a file, and of which some have no effect. FileForm is
//     how the file of a program differs from plain YAML, Group what the help has together.
//   - Mistakes, Findings: what is wrong with how a program is started, all of it, and what is probably not meant.
//   - LogConfig, Rotation: where log lines go. The lines have etcd's keys, in etcd's order.
//   - Log: where lines go, of one message no more than anybody reads (limiter), and whose level can change.
//   - Reloader: what has each part of a process look at its files while it runs, or when it is told to; Options and Steady help parts.
//   - registry: the metrics of one process, which are never those of another in the same binary.
//   - the service manager, which is told that this process is ready, and may hold its socket; journald takes log lines.
//   - Drain, Draining: how long this process takes to end after it was told to, and where in that it is.
//
// Callers: cmd/core and cmd/proxy.
package process
