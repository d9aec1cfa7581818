package tracing

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// serve runs a gRPC server until stop is called, or the test ends. When stop returns all handlers have ended.
func serve(t *testing.T, register func(*grpc.Server), o ...grpc.ServerOption) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(o, grpc.WaitForHandlers(true))...)
	register(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stop = sync.OnceFunc(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// collector keeps the traces that it is given.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer

	mu      sync.Mutex        // guards the fields below
	service []string          // "key=value" of what sent the spans
	spans   map[string]string // name by trace id
}

func (c *collector) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		for _, a := range resource.Resource.Attributes {
			c.service = append(c.service, a.Key+"="+a.Value.GetStringValue())
		}
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans[hex.EncodeToString(s.TraceId)] = s.Name
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// traced calls a server with a tracer of cfg once, with a header of the caller's trace if there is one.
func traced(t *testing.T, cfg Config, traceparent string) {
	t.Helper()
	tracer, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	addr, stop := serve(t, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, health.NewServer()) }, grpc.StatsHandler(tracer.Handler()))
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := t.Context()
	if traceparent != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", traceparent)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	stop() // a span ends after its answer has been sent
	closing, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := tracer.Close(closing); err != nil {
		t.Fatal(err)
	}
}

func TestTracesGoToTheCollectorAsTheSamplingRateSays(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const id = "0af7651916cd43dd8448eb211c80319c"
	for _, c := range []struct {
		name        string
		perMillion  int
		traceparent string
		want        bool
	}{
		{"nobody asks", 0, "", false},
		{"the caller traces", 0, "00-" + id + "-b7ad6b7169203331-01", true},
		{"all are traced", million, "", true},
		{"the caller does not trace", million, "00-" + id + "-b7ad6b7169203331-00", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := &collector{spans: map[string]string{}}
			addr, _ := serve(t, func(s *grpc.Server) { collectorpb.RegisterTraceServiceServer(s, got) })
			traced(t, Config{Address: addr, Service: "etcd", Instance: "m1", PerMillion: c.perMillion}, c.traceparent)
			got.mu.Lock()
			defer got.mu.Unlock()
			if (len(got.spans) == 1) != c.want {
				t.Fatalf("got %v", got.spans)
			}
			if !c.want {
				return
			}
			if attributes := strings.Join(got.service, " "); attributes != "service.name=etcd service.instance.id=m1" && attributes != "service.instance.id=m1 service.name=etcd" {
				t.Errorf("sent by %s", attributes)
			}
			if c.traceparent != "" && got.spans[id] != "grpc.health.v1.Health/Check" {
				t.Errorf("the caller's trace is not continued: %v", got.spans)
			}
		})
	}
}

func TestNobodyWaitsForACollectorThatIsAway(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	tracer, err := Start(t.Context(), Config{Address: "127.0.0.1:1", Service: "etcd", PerMillion: million}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.provider.Tracer("test").Start(t.Context(), "lost")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tracer.Close(ctx); err == nil || !strings.Contains(err.Error(), "send the last traces") {
		t.Errorf("got %v", err)
	}
}

func TestFlagsThatCannotBeAreRefused(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Address: "a:1", PerMillion: -1}, "give 0 to 1000000"},
		{Config{Address: "a:1", PerMillion: million + 1}, "give 0 to 1000000"},
		{Config{}, "--distributed-tracing-address is empty"},
	} {
		if _, err := Start(t.Context(), c.config, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v", c.config, err)
		}
	}
}
