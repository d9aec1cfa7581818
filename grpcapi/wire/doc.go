// Package wire reads and writes etcd v3 messages as encoded bytes, so that what was encoded once is never
// decoded and encoded again on its way to a client.
//
// The nouns:
//
//   - Codec: the gRPC codec of both binaries. It hands a handler the bytes of a message (Raw) and sends the
//     bytes a handler gives (mem.BufferSlice); generated protobuf messages pass through it as usual.
//   - RangeRequest, PutRequest, DeleteRangeRequest: requests decoded by hand, because they are on the hot path.
//     Their byte slices point into the message they were decoded from. RangeRequest.Select applies the options
//     of a range to encoded KeyValues.
//   - Holds: whether a compare of a transaction is true of encoded KeyValues.
//   - KeyValue: the fields of an encoded mvccpb.KeyValue that a server filters and sorts by.
//   - Event: one change of one key, encoded where it was made and shared by every watcher.
//   - WatchResponse, RangeResponse: what a proxy receives from upstream, decoded by hand into events and KeyValues that
//     share its bytes.
//   - WatchCreate: what a proxy asks upstream to watch.
//   - Namespace: puts the keys of an encoded request below a prefix, and takes it off those of an answer.
//   - Header: the ResponseHeader, the only part of most answers that differs from client to client.
//
// A response is joined from a header and encoded KeyValues. The Encode functions return one that is ready to send;
// large KeyValues are in it as they are, small ones are copied together. The Append functions write one that
// stands inside another message: an answer in a TxnResponse (TxnOp), an event in a WatchResponse.
//
// Invariants: decoding never panics and never reads outside its input, whatever the bytes are, and fails exactly
// when google.golang.org/protobuf fails; what the Encode and Append functions write is byte for byte what
// google.golang.org/protobuf writes for the same message, if their calls are in the order of the fields; every slice
// given in or out is immutable from then on, by agreement, because it may be shared across streams.
//
// Callers: grpcapi, core, core/mvcc, coalesce, cache and proxy. It imports nothing of weir.
package wire
