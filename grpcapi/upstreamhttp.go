package grpcapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// How long the reads and watches may take by which a server that forwards is checked, as at etcd's grpc-proxy.
const (
	readCheckTimeout  = time.Second
	watchCheckTimeout = 3 * time.Second
)

// passOnTimeout bounds the asking for what is upstream's to say: etcd's request timeout, 5 s and two election timeouts.
const passOnTimeout = 7 * time.Second

// upstreamEndpoints are those of a server that forwards to u: /livez, which holds while the process runs, /readyz, which
// needs a connected upstream, /health, which needs one that reads, /version and /metrics, which are upstream's, and about the
// server itself /proxy/health and /proxy/metrics.
func (s *Server) upstreamEndpoints(u Upstream) endpoints {
	h := healthEndpoints{metrics: s.cfg.Metrics, ready: s.ready, log: s.cfg.Logger}
	p := forwardProbe{upstream: u, itself: s.loopback}
	e := endpoints{
		"/health":       h.older(p.upstreamReads),
		"/proxy/health": h.older(p.itselfAnswers),
		"/version":      onlyGet(p.version),
		"/metrics":      http.HandlerFunc(p.metrics),
	}
	h.add(e, "livez", nil)
	h.add(e, "readyz", []check{{"upstream", p.ready}})
	if s.cfg.Gatherer != nil {
		e["/proxy/metrics"] = metrics(s.cfg.Gatherer)
	}
	return e
}

// forwardProbe asks a server that forwards, and its upstream, how they are.
type forwardProbe struct {
	upstream Upstream
	itself   *loopback
}

func (p forwardProbe) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readCheckTimeout)
	defer cancel()
	return p.upstream.Ready(ctx)
}

// upstreamReads makes a linearizable read. To be refused it for lack of a user is as good: upstream answers.
func (p forwardProbe) upstreamReads(ctx context.Context, _ []string, _ bool) string {
	ctx, cancel := context.WithTimeout(ctx, readCheckTimeout)
	defer cancel()
	if err := p.upstream.Ready(ctx); err != nil {
		return "GET ERROR:" + err.Error()
	}
	r := &pb.RangeRequest{Key: []byte{0}, CountOnly: true}
	err := call(ctx, p.upstream, pb.KV_Range_FullMethodName, r, &pb.RangeResponse{})
	if err != nil && !refused(err) {
		return "GET ERROR:" + reason(err)
	}
	return ""
}

// itselfAnswers reads and watches as a client does.
func (p forwardProbe) itselfAnswers(ctx context.Context, _ []string, _ bool) string {
	ctx, cancel := context.WithTimeout(ctx, watchCheckTimeout)
	defer cancel()
	reading, cancelRead := context.WithTimeout(ctx, readCheckTimeout)
	defer cancelRead()
	_, err := pb.NewKVClient(p.itself.probe).Range(reading, &pb.RangeRequest{Key: []byte{0}, CountOnly: true})
	if err != nil && !refused(err) {
		return "GET ERROR:" + reason(err)
	}
	watch, err := pb.NewWatchClient(p.itself.probe).Watch(ctx)
	if err == nil {
		err = watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte{0}},
		}})
	}
	if err == nil {
		_, err = watch.Recv()
	}
	switch {
	case ctx.Err() != nil:
		return "WATCH TIMEOUT"
	case err != nil && !refused(err):
		return "WATCH ERROR:" + reason(err)
	}
	return ""
}

// version is what a member says by RPC, since not every address of a member has HTTP. With authentication on only users are
// told that, and HTTP, where etcd tells everybody, is asked.
func (p forwardProbe) version(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), passOnTimeout)
	defer cancel()
	var s pb.StatusResponse
	err := call(ctx, p.upstream, pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{}, &s)
	switch {
	case refused(err):
		p.passOn(ctx, w, "/version", "application/json")
	case err != nil:
		http.Error(w, reason(err), http.StatusServiceUnavailable)
	default:
		writeVersion(w, &s)
	}
}

func (p forwardProbe) metrics(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), passOnTimeout)
	defer cancel()
	p.passOn(ctx, w, "/metrics", "text/plain; version=0.0.4; charset=utf-8")
}

// passOn answers with what a member of upstream answers.
func (p forwardProbe) passOn(ctx context.Context, w http.ResponseWriter, path, contentType string) {
	body, err := p.upstream.UpstreamHTTP(ctx, path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer body.Close()
	w.Header().Set("Content-Type", contentType)
	_, _ = io.Copy(w, body) // one of both has gone, and a monitor notices
}

func call(ctx context.Context, f Forwarder, method string, req, resp proto.Message) error {
	raw, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode %T: %w", req, err)
	}
	answer, err := f.Unary(ctx, method, raw, nil)
	if err != nil {
		return err
	}
	return proto.Unmarshal(answer, resp)
}
