// Package tracing sends traces of RPCs to an OpenTelemetry collector, with etcd's flags and under etcd's names.
//
// The nouns:
//
//   - Config: the flags.
//   - Tracer: what is told of RPCs, and sends the traced ones in batches to the collector.
//
// Invariants: no RPC waits for the collector, whether it is there or not; what cannot be sent is dropped, and logged;
// without a Tracer nothing of OpenTelemetry runs.
//
// Callers: cmd/core and cmd/proxy.
package tracing
