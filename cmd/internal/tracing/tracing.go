package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
	"google.golang.org/grpc/stats"
)

// Config is etcd's --distributed-tracing-… flags.
type Config struct {
	Address  string // host:port of the collector, which is spoken to in gRPC without TLS, as at etcd
	Service  string // service.name, the same for all members of a cluster
	Instance string // service.instance.id, another for each member; empty is none
	// PerMillion of the RPCs are traced whose callers have not decided that for themselves: a trace that a caller has
	// begun is always continued.
	PerMillion int
}

const million = 1_000_000

// Check tells what is wrong with c.
func (c Config) Check() error {
	if c.PerMillion < 0 || c.PerMillion > million {
		return fmt.Errorf("--distributed-tracing-sampling-rate=%d is not possible: give 0 to %d", c.PerMillion, million)
	}
	if c.Address == "" {
		return errors.New("--distributed-tracing-address is empty: give the collector's, as in localhost:4317")
	}
	return nil
}

// Tracer traces RPCs.
type Tracer struct {
	provider *trace.TracerProvider
	exporter trace.SpanExporter
}

// Start makes a Tracer that must be closed. It does not wait for the collector. What goes wrong later is told to logger;
// OpenTelemetry has one place for that in a process, so there should be one Tracer.
func Start(ctx context.Context, c Config, logger *slog.Logger) (*Tracer, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(c.Address))
	if err != nil {
		return nil, fmt.Errorf("trace to --distributed-tracing-address=%s: %w", c.Address, err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.Warn("could not send traces", "address", c.Address, "error", err.Error())
	}))
	attributes := resource.NewWithAttributes(semconv.SchemaURL, semconv.ServiceName(c.Service))
	if c.Instance != "" {
		attributes = resource.NewWithAttributes(semconv.SchemaURL, semconv.ServiceName(c.Service), semconv.ServiceInstanceID(c.Instance))
	}
	// A rate of 0 still continues the traces of callers.
	sampler := trace.ParentBased(trace.TraceIDRatioBased(float64(c.PerMillion) / million))
	logger.Info("distributed tracing setup enabled", "address", c.Address, "service-name", c.Service, "service-instance-id", c.Instance,
		"sampling-rate", c.PerMillion)
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(attributes), trace.WithSampler(sampler))
	return &Tracer{provider, exporter}, nil
}

// Handler is for a gRPC server. A caller's trace comes in the headers of W3C (traceparent, baggage).
func (t *Tracer) Handler() stats.Handler {
	return otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
	)
}

// Close sends what is traced so far, until ctx ends.
func (t *Tracer) Close(ctx context.Context) error {
	if err := t.provider.Shutdown(ctx); err != nil {
		_ = t.exporter.Shutdown(ctx) // the provider has left it in the middle of sending
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}
