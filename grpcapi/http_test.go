package grpcapi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// handlers are what a server answers to HTTP: all, and on a port for monitors.
func handlers(t *testing.T, cfg Config, make func(Config) *Server) (all, monitor http.Handler) {
	cfg.Logger = quiet()
	s := make(cfg)
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s.rest, s.monitor
}

func one(t *testing.T) func(Config) *Server {
	return func(cfg Config) *Server { return NewBackendServer(cfg, oneKey(t)) }
}

func TestCORSHeadersAreEtcds(t *testing.T) {
	for _, c := range []struct {
		allowed []string
		origin  string
		want    string
	}{
		{nil, "", "*"},
		{nil, "https://any.example", "*"},
		{[]string{"*"}, "https://any.example", "*"},
		{[]string{"https://ours.example"}, "https://ours.example", "https://ours.example"},
		{[]string{"https://ours.example"}, "https://theirs.example", ""},
		{[]string{"https://ours.example"}, "", ""},
	} {
		all, _ := handlers(t, Config{CORS: c.allowed}, one(t))
		for _, method := range []string{"GET", "OPTIONS"} {
			r := httptest.NewRequest(method, "/health", nil)
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			w := httptest.NewRecorder()
			all.ServeHTTP(w, r)
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != c.want || w.Code != 200 {
				t.Errorf("%s from %q with %v: got %d %q", method, c.origin, c.allowed, w.Code, got)
			}
			if allowed := w.Header().Get("Access-Control-Allow-Methods") != ""; allowed != (c.want != "") {
				t.Errorf("%s from %q with %v: headers: %v", method, c.origin, c.allowed, w.Header())
			}
			if method == "OPTIONS" && w.Body.Len() != 0 {
				t.Errorf("OPTIONS: got %s", w.Body)
			}
		}
	}
}

func TestStatusPageIsForPagesOfNamedOriginsOnly(t *testing.T) {
	for _, c := range []struct {
		allowed []string
		want    string
	}{{nil, ""}, {[]string{"*"}, ""}, {[]string{"https://ours.example"}, "https://ours.example"}} {
		all, _ := handlers(t, Config{CORS: c.allowed, Status: http.NotFoundHandler()}, one(t))
		r := httptest.NewRequest(http.MethodGet, "/weir/status", nil)
		r.Header.Set("Origin", "https://ours.example")
		w := httptest.NewRecorder()
		all.ServeHTTP(w, r)
		if got := w.Header().Get("Access-Control-Allow-Origin"); got != c.want {
			t.Errorf("with %v: got %q, want %q", c.allowed, got, c.want)
		}
	}
}

func TestHostsThatAreNotWhitelistedAreRefusedInPlaintext(t *testing.T) {
	for _, c := range []struct {
		allowed []string
		url     string
		code    int
	}{
		{nil, "http://any.example/health", 200},
		{[]string{"*"}, "http://any.example/health", 200},
		{[]string{"ours.example"}, "http://ours.example/health", 200},
		{[]string{"ours.example"}, "http://ours.example:2379/health", 200},
		{[]string{"ours.example"}, "http://theirs.example:2379/health", 421},
		{[]string{"ours.example"}, "https://theirs.example:2379/health", 200},
	} {
		all, monitor := handlers(t, Config{HostWhitelist: c.allowed}, one(t))
		if code, body := request(all, "GET", c.url); code != c.code {
			t.Errorf("%s with %v: got %d %s", c.url, c.allowed, code, body)
		}
		if code, body := request(monitor, "GET", c.url); code != 200 {
			t.Errorf("%s with %v at a port for monitors: got %d %s", c.url, c.allowed, code, body)
		}
	}
}

// gathered is a registry with one metric.
func gathered() prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "something"}))
	return r
}

func TestPathsOfAServer(t *testing.T) {
	mine := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "mine") })
	backend, forward := one(t), func(cfg Config) *Server { return NewForwardServer(cfg, &fakeUpstream{}, nil, nil) }
	for _, c := range []struct {
		server          func(Config) *Server
		path            string
		at, atMonitors  int
		without, always string // a part of the body with an empty configuration; with all of it
	}{
		{backend, "/metrics", 200, 200, "404", "something 0"},
		{backend, "/version", 200, 404, "3.7.3", "3.7.3"},
		{backend, "/debug/vars", 200, 404, "cmdline", "cmdline"},
		{backend, "/debug/pprof/", 200, 404, "404", "goroutine"},
		{backend, "/debug/pprof/cmdline", 200, 404, "404", os.Args[0]},
		{backend, "/livez/serializable_read", 200, 200, "ok", "ok"},
		{backend, "/readyz", 200, 200, "ok", "ok"},
		{backend, "/health", 200, 200, "true", "true"},
		{backend, "/proxy/metrics", 404, 404, "404", "404"},

		{forward, "/metrics", 200, 200, "etcd_server_has_leader 1", "etcd_server_has_leader 1"},
		{forward, "/proxy/metrics", 200, 200, "404", "something 0"},
		{forward, "/readyz", 200, 200, "ok", "ok"},
		{forward, "/debug/pprof/", 200, 404, "404", "goroutine"},
	} {
		empty, _ := handlers(t, Config{}, c.server)
		if code, body := request(empty, "GET", c.path); !strings.Contains(body, c.without) {
			t.Errorf("%s without a configuration: got %d %s", c.path, code, body)
		}
		all, monitor := handlers(t, Config{Gatherer: gathered(), Pprof: true}, c.server)
		if code, body := request(all, "GET", c.path); code != c.at || !strings.Contains(body, c.always) {
			t.Errorf("%s: got %d %s", c.path, code, body)
		}
		if code, body := request(monitor, "GET", c.path); code != c.atMonitors {
			t.Errorf("%s for monitors: got %d %s", c.path, code, body)
		}
	}
	all, monitor := handlers(t, Config{Status: mine, Counts: mine}, backend)
	for _, c := range []struct {
		handler http.Handler
		path    string
		want    int
	}{
		{all, "/weir/", 200}, {all, "/weir/events", 200}, {all, "/weir/status", 200},
		{monitor, "/weir/", 404}, {monitor, "/weir/events", 404}, {monitor, "/weir/status", 200},
	} {
		if code, body := request(c.handler, "GET", c.path); code != c.want || (body == "mine") != (c.want == 200) {
			t.Errorf("%s: got %d %s", c.path, code, body)
		}
	}
}

func TestOnlyGetIsAllowed(t *testing.T) {
	all, _ := handlers(t, Config{}, one(t))
	for _, path := range []string{"/health", "/livez", "/readyz", "/readyz/non_learner", "/version", "/debug/vars"} {
		for _, method := range []string{"HEAD", "POST", "PUT"} {
			w := httptest.NewRecorder()
			all.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET" || w.Body.String() != "Method Not Allowed\n" {
				t.Errorf("%s %s: got %d %v %s", method, path, w.Code, w.Header(), w.Body)
			}
		}
	}
}

func TestVarsTellOfTheProcessAndOfRaft(t *testing.T) {
	b := oneKey(t)
	b.status = &pb.StatusResponse{Header: &pb.ResponseHeader{MemberId: 0xab}, Leader: 0xab, RaftTerm: 2, RaftIndex: 5, RaftAppliedIndex: 4}
	_, body := request(backendHTTP(t, b), "GET", "/debug/vars")
	var vars struct {
		CommandLine []string       `json:"cmdline"`
		Memory      map[string]any `json:"memstats"`
		Raft        map[string]any `json:"raft.status"`
	}
	if err := json.Unmarshal([]byte(body), &vars); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(vars.CommandLine, os.Args) || vars.Memory["HeapAlloc"] == nil {
		t.Errorf("got %s", body)
	}
	for key, want := range map[string]any{"id": "ab", "lead": "ab", "raftState": "StateLeader", "term": 2., "commit": 5., "applied": 4.} {
		if vars.Raft[key] != want {
			t.Errorf("raft.status has %s: %v", key, vars.Raft[key])
		}
	}
}

func TestForwardingServerChecksItself(t *testing.T) {
	for name, c := range map[string]struct {
		u    *fakeUpstream
		want string
	}{
		"well":      {&fakeUpstream{}, `{"health":"true","reason":""}`},
		"auth":      {&fakeUpstream{err: rpctypes.ErrGRPCUserEmpty}, `{"health":"true","reason":""}`},
		"no leader": {&fakeUpstream{err: rpctypes.ErrGRPCNoLeader}, `{"health":"false","reason":"GET ERROR:etcdserver: no leader"}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			// It reaches itself only when it serves.
			address := start(t, NewForwardServer(Config{Logger: quiet()}, c.u, nil, nil))
			if code, body := get(t, jsonClient(t), "http://"+address+"/proxy/health"); body != c.want {
				t.Errorf("got %d %s", code, body)
			}
		})
	}
}

func TestAdvertisedURLIsTheOnlyMember(t *testing.T) {
	u := &fakeUpstream{answer: marshal(t, &pb.MemberListResponse{Members: []*pb.Member{{Name: "upstream's"}}})}
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{"": "upstream's", "127.0.0.1:23790": hostname} {
		s := NewForwardServer(Config{AdvertiseClientURL: url, Logger: quiet()}, u, nil, nil)
		r, err := pb.NewClusterClient(dial(t, start(t, s))).MemberList(t.Context(), &pb.MemberListRequest{})
		if err != nil || len(r.Members) != 1 || r.Members[0].Name != want || strings.Join(r.Members[0].ClientURLs, " ") != url {
			t.Errorf("%q: got %v, %v", url, r, err)
		}
	}
}

func TestProfilesDoNotTellArguments(t *testing.T) {
	all, _ := handlers(t, Config{Pprof: true}, func(cfg Config) *Server { return NewForwardServer(cfg, &fakeUpstream{}, nil, nil) })
	if code, body := request(all, "GET", "/debug/pprof/cmdline"); code != 200 || body != os.Args[0] {
		t.Errorf("got %d %q", code, body)
	}
}
