// Package process is what both commands do around their work: flags that may come from the environment, logs as
// etcd writes them, one line for a mistake, and limits for Go's memory manager.
//
// The nouns:
//
//   - Flags: a flag set whose flags may also be given as environment variables.
//   - Logger: structured lines with etcd's keys.
//
// Callers: cmd/core and cmd/proxy.
package process
