package grpcapi

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// methodMetrics counts the RPCs of one method.
type methodMetrics struct {
	labels []string // rpcLabels
	unary  bool

	failures *prometheus.CounterVec // nil for methods of which they are not counted
	api      string                 // its label in failures
	duration prometheus.Observer    // nil if it is not measured

	started atomic.Uint64
	handled [codes.Unauthenticated + 1]atomic.Uint64 // by code

	received, sent atomic.Uint64 // messages of streams
}

// messages returns how many were received and sent. A unary RPC has one in, and if it succeeds one out, which need not be
// counted.
func (c *methodMetrics) messages() (received, sent uint64) {
	if c.unary {
		return c.started.Load(), c.handled[codes.OK].Load()
	}
	return c.received.Load(), c.sent.Load()
}

func (m *Metrics) newMethod(service, name string, clientStreams, serverStreams bool) *methodMetrics {
	kind := "unary"
	switch {
	case clientStreams && serverStreams:
		kind = "bidi_stream"
	case clientStreams:
		kind = "client_stream"
	case serverStreams:
		kind = "server_stream"
	}
	c := &methodMetrics{labels: []string{kind, service, name}, unary: kind == "unary"}
	switch "/" + service + "/" + name { // those of which etcd counts failures
	case pb.Watch_Watch_FullMethodName:
		c.failures, c.api = m.failures, "watch"
	case pb.Lease_LeaseKeepAlive_FullMethodName:
		c.failures, c.api = m.failures, "lease-keepalive"
	}
	if m.duration != nil {
		c.duration = m.duration.WithLabelValues(c.labels...)
	}
	return c
}

// all returns the counters of all methods.
func (m *Metrics) all() []*methodMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append(slices.Collect(maps.Values(m.methods)), m.unknown)
}

// method returns the counters of a method, which it makes if need be.
func (m *Metrics) method(service, name string, clientStreams, serverStreams bool) *methodMetrics {
	full := "/" + service + "/" + name
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.methods[full]
	if c == nil {
		c = m.newMethod(service, name, clientStreams, serverStreams)
		m.methods[full] = c
	}
	return c
}

// find returns the counters of a method by its full name.
func (m *Metrics) find(full string) *methodMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.methods[full]; c != nil {
		return c
	}
	return m.unknown
}

// registrar returns what services are registered with, so that their RPCs are counted; by the versions of clients too,
// as etcd's members do and its proxy does not, if byVersion is set. m may be nil.
func (m *Metrics) registrar(s *grpc.Server, byVersion bool) grpc.ServiceRegistrar {
	if m == nil {
		return s
	}
	for _, d := range etcdServices() { // also what is served by no registered service, so that all begin with 0
		m.countedService(&d, nil)
	}
	r := countedServices{server: s, metrics: m}
	if byVersion {
		r.versions = &m.versions
	}
	return r
}

// countedServices is a grpc.Server whose services' RPCs are counted.
type countedServices struct {
	server   *grpc.Server
	metrics  *Metrics
	versions *versionCounts // nil if versions are not counted
}

// RegisterService is part of grpc.ServiceRegistrar.
func (r countedServices) RegisterService(d *grpc.ServiceDesc, impl any) {
	r.server.RegisterService(r.metrics.countedService(d, r.versions), impl)
}

// countedService returns d with handlers that count.
func (m *Metrics) countedService(d *grpc.ServiceDesc, versions *versionCounts) *grpc.ServiceDesc {
	c := *d
	c.Methods = make([]grpc.MethodDesc, len(d.Methods))
	for i, method := range d.Methods {
		method.Handler = m.method(d.ServiceName, method.MethodName, false, false).countUnary(versions, method.Handler)
		c.Methods[i] = method
	}
	c.Streams = make([]grpc.StreamDesc, len(d.Streams))
	for i, stream := range d.Streams {
		stream.Handler = m.method(d.ServiceName, stream.StreamName, stream.ClientStreams, stream.ServerStreams).countStream(versions, stream.Handler)
		c.Streams[i] = stream
	}
	return &c
}

// unregistered is handle, for RPCs of services that are not registered, with counting. m may be nil.
func (m *Metrics) unregistered(handle grpc.StreamHandler) grpc.StreamHandler {
	if m == nil {
		return handle
	}
	return func(srv any, s grpc.ServerStream) error {
		full, _ := grpc.MethodFromServerStream(s)
		return m.find(full).countStream(nil, handle)(srv, s)
	}
}

func (c *methodMetrics) countUnary(versions *versionCounts, handle grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
		started := c.start()
		versions.count(ctx, unaryRPC)
		resp, err := handle(srv, ctx, decode, i)
		c.end(started, err)
		return resp, err
	}
}

func (c *methodMetrics) countStream(versions *versionCounts, handle grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, s grpc.ServerStream) error {
		started := c.start()
		versions.count(s.Context(), streamRPC)
		err := handle(srv, &countedStream{s, c})
		c.end(started, err)
		return err
	}
}

func (c *methodMetrics) start() (started time.Time) {
	c.started.Add(1)
	if c.duration != nil {
		started = time.Now()
	}
	return started
}

func (c *methodMetrics) end(started time.Time, err error) {
	c.handled[codeOf(err)].Add(1)
	if c.duration != nil {
		c.duration.Observe(time.Since(started).Seconds())
	}
}

// codeOf is the code that grpc answers when a handler returns err. Codes that gRPC does not know count as Unknown.
func codeOf(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	if s.Code() > codes.Unauthenticated {
		return codes.Unknown
	}
	return s.Code()
}

// countedStream counts messages.
type countedStream struct {
	grpc.ServerStream
	counts *methodMetrics
}

// RecvMsg is part of grpc.ServerStream.
func (s *countedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.counts.received.Add(1)
	} else {
		s.failed("receive", err)
	}
	return err
}

// SendMsg is part of grpc.ServerStream.
func (s *countedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.counts.sent.Add(1)
	} else {
		s.failed("send", err)
	}
	return err
}

// failed counts err unless it is the stream's end, or the client ended it. What tells that is etcd's rule.
func (s *countedStream) failed(action string, err error) {
	if s.counts.failures == nil || errors.Is(err, io.EOF) || s.Context().Err() != nil {
		return
	}
	switch st, _ := status.FromError(err); st.Code() {
	case codes.Canceled, codes.DeadlineExceeded:
		return
	case codes.Unavailable:
		if st.Message() == "client disconnected" ||
			strings.HasPrefix(st.Message(), "stream error: ") && strings.HasSuffix(st.Message(), "; CANCEL") {
			return
		}
	}
	s.counts.failures.WithLabelValues(action, s.counts.api).Inc()
}

// codec returns wire's codec, with counting. m may be nil.
func (m *Metrics) codec() encoding.CodecV2 {
	if m == nil {
		return wire.Codec{}
	}
	return countedCodec{metrics: m}
}

// countedCodec counts bytes. They are those of messages, decompressed and without HTTP/2, as at etcd.
type countedCodec struct {
	wire.Codec
	metrics *Metrics
}

// Marshal is part of encoding.CodecV2.
func (c countedCodec) Marshal(v any) (mem.BufferSlice, error) {
	data, err := c.Codec.Marshal(v)
	c.metrics.sent.Add(uint64(data.Len()))
	return data, err
}

// Unmarshal is part of encoding.CodecV2.
func (c countedCodec) Unmarshal(data mem.BufferSlice, v any) error {
	c.metrics.received.Add(uint64(data.Len()))
	return c.Codec.Unmarshal(data, v)
}
