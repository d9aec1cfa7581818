package grpcapi

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func TestStreamsOverTheLimitAreRefused(t *testing.T) {
	store := newMemStore(t)
	address := start(t, NewBackendServer(Config{MaxConcurrentStreams: 3, Logger: quiet()}, store))
	c := dialRaw(t, address)
	if got := (<-c.settings)[http2.SettingMaxConcurrentStreams]; got != 3 {
		t.Errorf("the server announces %d streams", got)
	}
	for range 4 {
		if _, err := c.open(pb.Watch_Watch_FullMethodName, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-c.refused; got != 7 {
		t.Errorf("stream %d was refused, want the fourth, which is 7", got)
	}
	wantOthersServed(t, address)
}

func TestClientThatPingsTooOftenIsDisconnected(t *testing.T) {
	c := dialRaw(t, newLockServer(t).address)
	for range 5 { // the first is free, and two more are forgiven
		c.ping()
	}
	<-c.ended
	if got := <-c.goAway; got != "too_many_pings" {
		t.Errorf("the server went away with %q", got)
	}
}

func TestClientMayPingAsOftenAsIsConfigured(t *testing.T) {
	c := dialRaw(t, start(t, NewBackendServer(Config{KeepAliveMinTime: 1, Logger: quiet()}, newMemStore(t))))
	if _, err := c.open(pb.Watch_Watch_FullMethodName, nil); err != nil { // without a stream, 2 h is the least
		t.Fatal(err)
	}
	for range 10 {
		c.ping()
	}
	select {
	case got := <-c.goAway:
		t.Errorf("the server went away with %q", got)
	default:
	}
}

func TestMetadataOverTheLimitIsRefused(t *testing.T) {
	for limit, config := range map[int]Config{
		1 << 20: {Logger: quiet()},
		1000:    {Logger: quiet(), MaxHeaderBytes: 1000},
	} {
		kv := pb.NewKVClient(dial(t, start(t, NewBackendServer(config, newMemStore(t)))))
		read := func(n int) error {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("v", n))
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
			return err
		}
		if err := read(0); err != nil { // from here on the client knows the limit
			t.Fatal(err)
		}
		if err := read(limit / 2); err != nil {
			t.Errorf("half of %d bytes: %v", limit, err)
		}
		if err := read(limit); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "header list size") {
			t.Errorf("all of %d bytes: %v", limit, err)
		}
	}
}

func TestHeaderOverTheLimitIsRefusedIfTheClientSendsItAllTheSame(t *testing.T) {
	address := start(t, NewBackendServer(Config{MaxHeaderBytes: 1000, Logger: quiet()}, newMemStore(t)))
	c := dialRaw(t, address)
	fields := c.fields(pb.KV_Range_FullMethodName, "x", strings.Repeat("v", 1000))
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	c.ping()
	wantOthersServed(t, address)
}

func TestHealthIsThatOfTheServerAndOfEachService(t *testing.T) {
	s := NewBackendServer(Config{Logger: quiet()}, newMemStore(t))
	client := healthpb.NewHealthClient(dial(t, start(t, s)))
	names := []string{""}
	for _, d := range etcdServices() {
		names = append(names, d.ServiceName)
	}
	for _, name := range names {
		resp, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
		if err != nil || resp.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("service %q: %v, error %v", name, resp, err)
		}
	}
	_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "a.B"})
	wantStatus(t, err, codes.NotFound, "unknown service")
}

// defragmenting is a store whose Defragment takes until it is told to end.
type defragmenting struct {
	*memStore
	begun, end chan struct{}
}

func (d *defragmenting) Defragment(ctx context.Context, r *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	d.begun <- struct{}{}
	<-d.end
	return d.memStore.Defragment(ctx, r)
}

func TestHealthWhileTheStoreIsDefragmented(t *testing.T) {
	const serving, not = healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING
	for rests, want := range map[bool]healthpb.HealthCheckResponse_ServingStatus{false: serving, true: not} {
		d := &defragmenting{newMemStore(t), make(chan struct{}), make(chan struct{})}
		conn := dial(t, start(t, NewBackendServer(Config{RestToDefragment: rests, Logger: quiet()}, d)))
		is := func(want healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			for _, name := range []string{"", "etcdserverpb.KV"} {
				resp, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
				if err != nil || resp.Status != want {
					t.Errorf("rests: %v, service %q: %v, error %v; want %v", rests, name, resp, err, want)
				}
			}
		}
		ended := make(chan error)
		defragment := func() {
			_, err := pb.NewMaintenanceClient(conn).Defragment(t.Context(), &pb.DefragmentRequest{})
			ended <- err
		}
		go defragment()
		<-d.begun
		go defragment()
		<-d.begun
		is(want)
		d.end <- struct{}{}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		is(want) // of the other
		d.end <- struct{}{}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		is(serving)
	}
}

func TestEveryMethodOfEtcdIsServed(t *testing.T) {
	s := NewBackendServer(Config{Logger: quiet()}, newMemStore(t))
	defer s.Stop(t.Context())
	var served []string
	for name, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			served = append(served, "/"+name+"/"+m.Name)
		}
	}
	for _, method := range everyMethod() {
		if !slices.Contains(served, method) {
			t.Errorf("%s is not served", method)
		}
	}
}

// reflected asks the reflection service one thing.
func reflected(t *testing.T, conn *grpc.ClientConn, r *reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(r); err != nil && !errors.Is(err, io.EOF) { // EOF: it has ended, and Recv tells why
		t.Fatal(err)
	}
	return stream.Recv()
}

func TestReflectionTellsAllThatIsServed(t *testing.T) {
	conn := dial(t, start(t, NewBackendServer(Config{Reflection: true, Logger: quiet()}, newMemStore(t))))
	resp, err := reflected(t, conn, &reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range resp.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	for _, d := range etcdServices() {
		if !slices.Contains(names, d.ServiceName) {
			t.Errorf("%s is not among %q", d.ServiceName, names)
			continue
		}
		resp, err := reflected(t, conn, &reflectionpb.ServerReflectionRequest{
			MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: d.ServiceName},
		})
		if err != nil {
			t.Fatal(err)
		}
		service := linked(t, resp.GetFileDescriptorResponse().GetFileDescriptorProto(), d.ServiceName)
		if got, want := service.Methods().Len(), len(d.Methods)+len(d.Streams); got != want {
			t.Errorf("%s has %d methods, want %d", d.ServiceName, got, want)
		}
	}
}

// linked is what a client does with the files that it is sent: each must be there that another imports.
func linked(t *testing.T, encoded [][]byte, service string) protoreflect.ServiceDescriptor {
	t.Helper()
	set := &descriptorpb.FileDescriptorSet{}
	for _, b := range encoded {
		f := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(b, f); err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, f)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatalf("%s: %v", service, err)
	}
	d, err := files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.ServiceDescriptor)
}

func TestReflectionIsOffUnlessWanted(t *testing.T) {
	conn := dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, newMemStore(t))))
	_, err := reflected(t, conn, &reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	})
	wantStatus(t, err, codes.Unimplemented, "unknown service grpc.reflection.v1.ServerReflection")
}
