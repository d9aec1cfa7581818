// Package process is what both commands do around their work: flags that may come from the environment, logs as
// etcd writes them, one line for a mistake, metrics of the process, and limits for Go's memory manager.
//
// The nouns:
//
//   - Flags: a flag set whose flags may also be given as environment variables, and of which some have no effect.
//   - LogConfig, Rotation: where log lines go. The lines have etcd's keys, in etcd's order.
//   - registry: the metrics of one process, which are never those of another in the same binary.
//   - the service manager, which is told that this process is ready, and journald, which takes log lines.
//
// Callers: cmd/core and cmd/proxy.
package process
