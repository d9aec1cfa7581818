package grpcapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"weir/cache"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

func request(h http.Handler, method, path string) (code int, body string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String()
}

// backendHTTP is what a server over b answers to HTTP.
func backendHTTP(t *testing.T, b Backend) http.Handler {
	s := NewBackendServer(Config{Logger: quiet()}, b)
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s.rest
}

// forwardHTTP is what a server before u answers to HTTP.
func forwardHTTP(t *testing.T, u Upstream) http.Handler {
	s := NewForwardServer(Config{Logger: quiet()}, u, nil, nil)
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s.rest
}

func TestHealthEndpointsOfABackend(t *testing.T) {
	readFails := func(serializable bool) func(context.Context, *wire.RangeRequest) (mem.BufferSlice, error) {
		return func(_ context.Context, r *wire.RangeRequest) (mem.BufferSlice, error) {
			if r.Serializable == serializable {
				return nil, rpctypes.ErrGRPCTimeout
			}
			return nil, nil
		}
	}
	healthy := func(*fakeBackend) {}
	noLeader := func(b *fakeBackend) { b.status = &pb.StatusResponse{} }
	noSpace := func(b *fakeBackend) { b.alarms = []*pb.AlarmMember{{Alarm: pb.AlarmType_NOSPACE}} }
	corrupt := func(b *fakeBackend) { b.alarms = []*pb.AlarmMember{{Alarm: pb.AlarmType_CORRUPT}} }
	unknownAlarm := func(b *fakeBackend) { b.alarms = []*pb.AlarmMember{{Alarm: 7}} }
	noSpaceNoLeader := func(b *fakeBackend) { noSpace(b); noLeader(b) }
	noQuorum := func(b *fakeBackend) { b.rangeKeys = readFails(false) }
	noDisk := func(b *fakeBackend) { b.rangeKeys = readFails(true) }
	learner := func(b *fakeBackend) { b.status = &pb.StatusResponse{Leader: 1, IsLearner: true} }

	const timedOut = "etcdserver: request timed out"
	cases := []struct {
		path  string
		state func(*fakeBackend)
		code  int
		body  string
	}{
		{"/health", healthy, 200, `{"health":"true","reason":""}`},
		{"/health", noLeader, 503, `{"health":"false","reason":"RAFT NO LEADER"}` + "\n"},
		{"/health?serializable=true", noLeader, 200, `{"health":"true","reason":""}`},
		{"/health", noSpace, 503, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{"/health?exclude=NOSPACE", noSpace, 200, `{"health":"true","reason":""}`},
		{"/health", noSpaceNoLeader, 503, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{"/health?exclude=NOSPACE", noSpaceNoLeader, 503, `{"health":"false","reason":"RAFT NO LEADER"}` + "\n"},
		{"/health?exclude=NOSPACE&serializable=true", noSpaceNoLeader, 200, `{"health":"true","reason":""}`},
		{"/health", unknownAlarm, 503, `{"health":"false","reason":"ALARM UNKNOWN"}` + "\n"},
		{"/health?exclude=7", unknownAlarm, 200, `{"health":"true","reason":""}`},
		{"/health", corrupt, 503, `{"health":"false","reason":"ALARM CORRUPT"}` + "\n"},
		{"/health", noQuorum, 503, `{"health":"false","reason":"RANGE ERROR:` + timedOut + `"}` + "\n"},
		{"/health?serializable=true", noQuorum, 200, `{"health":"true","reason":""}`},

		{"/livez", healthy, 200, "ok\n"},
		{"/livez", noQuorum, 200, "ok\n"},
		{"/livez?verbose", noQuorum, 200, "[+]serializable_read ok\nok\n"},
		{"/livez/serializable_read", healthy, 200, "ok\n"},
		{"/livez?exclude=serializable_read", noDisk, 200, "ok\n"},
		{"/livez/serializable_read?exclude=serializable_read", noDisk, 503, "[-]serializable_read failed: " + timedOut + "\n\n"},
		{"/livez", noDisk, 503, "[-]serializable_read failed: " + timedOut + "\n\n"},

		{"/readyz", healthy, 200, "ok\n"},
		{"/readyz", noSpace, 200, "ok\n"},
		{"/readyz?exclude=non_learner", learner, 200, "ok\n"},
		{"/readyz/non_learner", learner, 503, "[-]non_learner failed: not supported for learner\n\n"},
		{"/readyz/data_corruption", corrupt, 503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n"},
		{"/readyz", noQuorum, 503, "[+]data_corruption ok\n[-]linearizable_read failed: " + timedOut +
			"\n[+]non_learner ok\n[+]serializable_read ok\n\n"},

		{"/version", healthy, 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{"/nothing", healthy, 404, "404 page not found\n"},
	}
	for _, c := range cases {
		b := oneKey(t)
		c.state(b)
		code, body := request(backendHTTP(t, b), "GET", c.path)
		if code != c.code || body != c.body {
			t.Errorf("%s: got %d %q, want %d %q", c.path, code, body, c.code, c.body)
		}
	}
	if code, _ := request(backendHTTP(t, oneKey(t)), "POST", "/health"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d", code)
	}
}

// A check that waits for its answer takes no time from those after it.
func TestChecksHaveNoDeadlineInCommon(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		b := oneKey(t)
		b.rangeKeys = func(ctx context.Context, r *wire.RangeRequest) (mem.BufferSlice, error) {
			if r.Serializable {
				return nil, ctx.Err()
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Minute): // the request timeout with a long election timeout
				return nil, rpctypes.ErrGRPCTimeout
			}
		}
		const want = "[+]data_corruption ok\n[-]linearizable_read failed: etcdserver: request timed out\n" +
			"[+]non_learner ok\n[+]serializable_read ok\n\n"
		if code, body := request(backendHTTP(t, b), "GET", "/readyz"); code != 503 || body != want {
			t.Errorf("got %d %q, want 503 %q", code, body, want)
		}
	})
}

// silentUpstream answers nothing, and does not know whether it is connected, until its caller gives up.
type silentUpstream struct{ fakeUpstream }

func (*silentUpstream) Ready(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// quorumlessUpstream is connected and does not answer.
type quorumlessUpstream struct{ fakeUpstream }

func (*quorumlessUpstream) Unary(ctx context.Context, _ string, _ wire.Raw, _ *cache.Session) (wire.Raw, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// What is asked of upstream is not waited for longer than etcd's proxy does, which is a second.
func TestHealthOfAnUpstreamThatDoesNotAnswer(t *testing.T) {
	const gaveUp = "context deadline exceeded"
	cases := []struct {
		path string
		u    Upstream
		code int
		body string
	}{
		{"/health", &quorumlessUpstream{}, 503, `{"health":"false","reason":"GET ERROR:` + gaveUp + `"}` + "\n"},
		{"/health", &silentUpstream{}, 503, `{"health":"false","reason":"GET ERROR:` + gaveUp + `"}` + "\n"},
		{"/readyz", &quorumlessUpstream{}, 200, "ok\n"},
		{"/readyz", &silentUpstream{}, 503, "[-]upstream failed: " + gaveUp + "\n\n"},
		{"/livez", &silentUpstream{}, 200, "ok\n"},
	}
	for _, c := range cases {
		bubble.Test(t, func(t *testing.T) {
			began := time.Now()
			code, body := request(forwardHTTP(t, c.u), "GET", c.path)
			if code != c.code || body != c.body || time.Since(began) > time.Second {
				t.Errorf("%s: got %d %q after %v, want %d %q within 1 s", c.path, code, body, time.Since(began), c.code, c.body)
			}
		})
	}
}

// fakeUpstream answers every unary call alike, and sends the first message of a stream back.
type fakeUpstream struct {
	ready  error
	answer []byte
	err    error

	// Of the last call.
	called  string
	request wire.Raw
	session *cache.Session
}

func (u *fakeUpstream) Ready(context.Context) error { return u.ready }

func (u *fakeUpstream) UpstreamHTTP(_ context.Context, path string) (io.ReadCloser, error) {
	if path == "/version" {
		return io.NopCloser(strings.NewReader(`{"etcdserver":"3.7.1","etcdcluster":"3.7.0"}`)), nil
	}
	return io.NopCloser(strings.NewReader("etcd_server_has_leader 1\n")), u.err
}

func (u *fakeUpstream) Unary(_ context.Context, method string, req wire.Raw, s *cache.Session) (wire.Raw, error) {
	u.called, u.request, u.session = method, req, s
	return u.answer, u.err
}

func (u *fakeUpstream) Stream(method string, gs grpc.ServerStream, s *cache.Session) error {
	u.called, u.request, u.session = "stream "+method, nil, s
	if err := gs.RecvMsg(&u.request); err != nil {
		return err
	}
	return gs.SendMsg(u.request)
}

func TestHealthEndpointsOfAnUpstream(t *testing.T) {
	down := errors.New("upstream http://a:1: connection refused")
	status := marshal(t, &pb.StatusResponse{Version: "3.5.21"})
	cases := []struct {
		path string
		u    fakeUpstream
		code int
		body string
	}{
		{"/livez", fakeUpstream{ready: down}, 200, "ok\n"},
		{"/readyz", fakeUpstream{}, 200, "ok\n"},
		{"/readyz", fakeUpstream{ready: down}, 503, "[-]upstream failed: " + down.Error() + "\n\n"},
		{"/health", fakeUpstream{}, 200, `{"health":"true","reason":""}`},
		{"/health", fakeUpstream{ready: down}, 503, `{"health":"false","reason":"GET ERROR:` + down.Error() + `"}` + "\n"},
		{"/health", fakeUpstream{err: rpctypes.ErrGRPCUserEmpty}, 200, `{"health":"true","reason":""}`},
		{"/health", fakeUpstream{err: rpctypes.ErrGRPCPermissionDenied}, 200, `{"health":"true","reason":""}`},
		{"/health", fakeUpstream{err: rpctypes.ErrGRPCNoLeader}, 503,
			`{"health":"false","reason":"GET ERROR:etcdserver: no leader"}` + "\n"},
		{"/version", fakeUpstream{answer: status}, 200, `{"etcdserver":"3.5.21","etcdcluster":"3.5.0"}`},
		{"/version", fakeUpstream{err: rpctypes.ErrGRPCUserEmpty}, 200, `{"etcdserver":"3.7.1","etcdcluster":"3.7.0"}`},
		{"/version", fakeUpstream{err: rpctypes.ErrGRPCNoLeader}, 503, "etcdserver: no leader\n"},
	}
	for _, c := range cases {
		code, body := request(forwardHTTP(t, &c.u), "GET", c.path)
		if code != c.code || body != c.body {
			t.Errorf("%s: got %d %q, want %d %q", c.path, code, body, c.code, c.body)
		}
	}
	if code, body := request(forwardHTTP(t, &fakeUpstream{err: down}), "GET", "/version"); code != 503 || !strings.Contains(body, "refused") {
		t.Errorf("version of nothing: got %d %s", code, body)
	}
}
