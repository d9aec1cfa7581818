package wire

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Codec is the gRPC codec of both binaries. Servers force it with grpc.ForceServerCodecV2, clients with
// grpc.ForceCodecV2. It is named "proto", because what it puts on the wire is protobuf.
//
// It exists so that a message which is already encoded is neither decoded nor encoded again: handlers receive
// *Raw and send mem.BufferSlice or Raw. Protobuf messages work as with gRPC's own codec. Anything else is an
// error. The zero value is ready; all methods may be called concurrently.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

// Raw is one encoded message. A handler that takes a *Raw is given the bytes as they came; they are a private
// copy that the garbage collector owns, so they may be kept, sliced and shared.
type Raw []byte

// Name is the content-subtype, "proto".
func (Codec) Name() string { return "proto" }

// Marshal returns the encoded form of v, which is a mem.BufferSlice, a pointer to one, Raw, *Raw or proto.Message.
//
// The references that the caller holds on a mem.BufferSlice pass to gRPC, which frees each of them once when the
// message is written: a slice made of pooled buffers can be sent once for each reference, one made of
// mem.SliceBuffer any number of times.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case mem.BufferSlice:
		return m, nil
	case *mem.BufferSlice: // as an argument it costs no allocation
		return *m, nil
	case *Raw:
		return oneBuffer(*m), nil
	case Raw:
		return oneBuffer(m), nil
	case proto.Message:
		return marshalProto(m)
	}
	return nil, fmt.Errorf("wire: cannot marshal %T, want mem.BufferSlice, wire.Raw or proto.Message", v)
}

// Unmarshal decodes data into v, which is a *Raw or proto.Message.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *Raw:
		*m = data.Materialize()
		return nil
	case proto.Message:
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buf.Free()
		return proto.Unmarshal(buf.ReadOnlyData(), m)
	}
	return fmt.Errorf("wire: cannot unmarshal into %T, want *wire.Raw or proto.Message", v)
}

func marshalProto(m proto.Message) (mem.BufferSlice, error) {
	size := proto.Size(m)
	opts := proto.MarshalOptions{UseCachedSize: true} // of the line above
	if mem.IsBelowBufferPoolingThreshold(size) {
		b, err := opts.Marshal(m)
		if err != nil {
			return nil, err
		}
		return oneBuffer(b), nil
	}
	pool := mem.DefaultBufferPool()
	b := pool.Get(size)
	if _, err := opts.MarshalAppend((*b)[:0], m); err != nil {
		pool.Put(b)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(b, pool)}, nil
}
