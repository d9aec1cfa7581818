package grpcapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"weir/grpcapi/lockpb"
)

// gateway is the API as JSON over HTTP (https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/): etcd's own translation,
// in front of the server's gRPC by way of a connection in memory. So whatever limits, counts, permits or forwards RPCs
// does it for JSON too, and streams are streams. Rejected: to call the handlers themselves, which the translation
// can only do for RPCs that are no streams.
//
// Who asks is told by the Authorization header alone, which is passed on as it is. The client's certificate is that of
// another connection.
//
// A client can make it hold one request, see boundedJSON, and what gRPC holds for a stream.
type gateway struct {
	mux    *runtime.ServeMux
	limit  int // of a JSON value, in bytes
	origin origins
}

// newGateway translates for the RPCs of conn.
func newGateway(conn *grpc.ClientConn, maxMessageBytes int, allowed origins) *gateway {
	// Bytes are a third longer in base64, and JSON has names for what is a number in protobuf.
	limit := min(2*maxMessageBytes, math.MaxInt32)
	g := &gateway{
		mux: runtime.NewServeMux(
			runtime.WithMarshalerOption(runtime.MIMEWildcard, &boundedJSON{
				JSONPb: runtime.JSONPb{
					MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
					UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
				},
				limit: limit,
			}),
			runtime.WithErrorHandler(func(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
				runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, reasonOf(ctx, err))
			}),
			runtime.WithStreamErrorHandler(func(ctx context.Context, err error) *status.Status {
				return status.Convert(reasonOf(ctx, err))
			}),
			runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
				if r.TLS == nil {
					return nil
				}
				return metadata.Pairs(forwardedProto, "https")
			}),
		),
		limit:  limit,
		origin: allowed,
	}
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		gw.RegisterKVHandler, gw.RegisterWatchHandler, gw.RegisterLeaseHandler,
		gw.RegisterClusterHandler, gw.RegisterMaintenanceHandler, gw.RegisterAuthHandler,
		lockpb.RegisterLockHandler, lockpb.RegisterElectionHandler,
	} {
		// These only add to the mux; the error is for those that dial.
		if err := register(context.Background(), g.mux, conn); err != nil {
			panic(fmt.Sprintf("grpcapi: routes of the gateway: %v", err))
		}
	}
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isWebSocket(r) {
		g.serveWebSocket(w, r)
		return
	}
	if r.ProtoMajor == 1 && (r.URL.Path == "/v3/watch" || r.URL.Path == "/v3/lease/keepalive") {
		defer makeDuplex(w, r)()
	}
	g.serve(w, r)
}

// makeDuplex lets an HTTP/1 request whose body is a stream be answered before the body ends. net/http would else read the rest
// of the body before it lets the first answer go, and keep it: of a client that goes on sending, requests would be lost,
// or it would wait for ever, as at etcd. end is to be called by the handler when it is done.
//
// After that net/http must not be left to find the end of the body: it would then read the connection twice at once, and panic
// at the next request.
func makeDuplex(w http.ResponseWriter, r *http.Request) (end func()) {
	_ = http.NewResponseController(w).EnableFullDuplex() // all of HTTP/1 in net/http can
	if r.ContentLength < 0 {
		w.Header().Set("Connection", "close") // there may be no end
		return func() {}
	}
	return func() { _, _ = io.Copy(io.Discard, r.Body) }
}

// serve ends a request when a value of its body cannot be decoded. With the translation alone a stream would not be told of
// it, and be silent from then on, as it is at etcd.
func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	ctx, fail := context.WithCancelCause(r.Context())
	defer fail(nil)
	r = r.WithContext(ctx)
	r.Body = &requestBody{r.Body, fail}
	g.mux.ServeHTTP(w, r)
}

// requestBody carries to its decoder how to end the request.
type requestBody struct {
	io.ReadCloser
	fail context.CancelCauseFunc
}

// reasonOf is the reason for which a request was ended here, else the error that the RPC ended with.
func reasonOf(ctx context.Context, err error) error {
	var malformed malformedError
	if errors.As(context.Cause(ctx), &malformed) && status.Code(err) == codes.Canceled {
		return status.Error(codes.InvalidArgument, malformed.Error())
	}
	return err
}

// malformedError is why a value cannot be decoded.
type malformedError struct{ error }

// boundedJSON is JSON without spaces, and bounds each value of a body, of which a stream's has many.
type boundedJSON struct {
	runtime.JSONPb
	limit int
}

// Marshal is part of runtime.Marshaler. Where protojson puts spaces differs from build to build, on purpose; scripts that look
// for text in an answer should find the same each time.
func (j *boundedJSON) Marshal(v any) ([]byte, error) {
	spaced, err := j.JSONPb.Marshal(v)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, spaced); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// NewDecoder is part of runtime.Marshaler.
func (j *boundedJSON) NewDecoder(r io.Reader) runtime.Decoder {
	bounded := &valueReader{body: r}
	decoder := j.JSONPb.NewDecoder(bounded)
	return runtime.DecoderFunc(func(v any) error {
		bounded.left = j.limit
		err := decoder.Decode(v)
		if body, ok := r.(*requestBody); ok && err != nil && !errors.Is(err, io.EOF) {
			body.fail(malformedError{err})
		}
		return err
	})
}

// valueReader gives no more than what is left for the value that is being read. What the decoder had read ahead comes on top, no
// more than as much again.
type valueReader struct {
	body io.Reader
	left int
}

func (r *valueReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, errRequestTooLarge
	}
	n, err := r.body.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

// errRequestTooLarge has the text of etcd for a request that is too large; the gateway adds its code.
var errRequestTooLarge = errors.New(rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooLarge))
