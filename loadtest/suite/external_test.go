package suite

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// running is an etcd with TLS that runs already, and somebody's connection to it.
func running(t *testing.T) (External, *target.Target, *grpc.ClientConn) {
	t.Helper()
	dir := t.TempDir()
	tls, err := target.NewTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	tg := targettest.StartWith(t, bin, target.Etcd37, filepath.Join(dir, "data"), target.Options{TLS: tls, MemberArgs: []string{target.CheapPasswords}})
	conn, err := tg.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return External{Name: "theirs", Endpoints: []string{tg.Endpoint}, TLS: tg.ClientTLS()}, tg, conn
}

// addUser has a user bench who may read and write below Prefix alone, and switches authentication on.
func addUser(t *testing.T, conn *grpc.ClientConn, password string) {
	t.Helper()
	auth := pb.NewAuthClient(conn)
	var errs [7]error
	_, errs[0] = auth.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "root"})
	_, errs[1] = auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	_, errs[2] = auth.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "bench", Password: password})
	_, errs[3] = auth.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: "bench"})
	_, errs[4] = auth.RoleGrantPermission(t.Context(), &pb.AuthRoleGrantPermissionRequest{Name: "bench",
		Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte(Prefix), RangeEnd: load.PrefixEnd(Prefix)}})
	_, errs[5] = auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "bench", Role: "bench"})
	_, errs[6] = auth.AuthEnable(t.Context(), &pb.AuthEnableRequest{})
	for i, err := range errs {
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

func TestExternalSystemWithTLSAndUser(t *testing.T) {
	t.Parallel()
	e, tg, conn := running(t)
	if _, err := pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: []byte("theirs"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	addUser(t, conn, "a:b")
	e.User, e.Password, e.PIDs = "bench", "a:b", []int{tg.Processes()[0].Pid()}
	o := short(t, "txn", "get-linearizable", "lease-keepalive")
	o.External = []External{e}
	r := runWhole(t, o)
	if s := r.Systems[0]; !s.External || s.Base || s.Caveat == "" {
		t.Errorf("system is %+v", s)
	}
	programs := strings.Join(r.Systems[0].Programs, "; ")
	for _, want := range []string{"etcd 3.7.3 at " + e.Endpoints[0], "go.etcd.io/etcd/server/v3", "clients use TLS, as user bench"} {
		if !strings.Contains(programs, want) {
			t.Errorf("the programs %q lack %q", programs, want)
		}
	}
	for _, s := range r.Scenarios {
		turn := s.Results[0].Turns[0]
		if turn.Operations == 0 || turn.Upstream != nil || len(turn.Processes) != 1 || turn.Processes[0].CPU == 0 {
			t.Errorf("%s: %+v", s.Name, turn)
		}
	}
	checkOnlyTheirs(t, e)
}

// checkOnlyTheirs sees to it that nothing is left but one key of somebody else's.
func checkOnlyTheirs(t *testing.T, e External) {
	t.Helper()
	e.User, e.Password = "root", "root"
	h := &externalHost{External: e}
	s, err := h.system(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.ask(t.Context(), s, 0, func(ctx context.Context, conn *grpc.ClientConn) error {
		all, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err != nil {
			return err
		}
		leases, err := pb.NewLeaseClient(conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
		if err != nil {
			return err
		}
		if len(all.Kvs) != 1 || string(all.Kvs[0].Key) != "theirs" || len(leases.Leases) != 0 {
			t.Errorf("left behind: %v, %v", all.Kvs, leases.Leases)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestKeysOfOthersAreNotDeleted(t *testing.T) {
	t.Parallel()
	e, _, conn := running(t)
	kv := pb.NewKVClient(conn)
	if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte(Prefix + "mine"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	o := short(t, "put")
	o.External = []External{e}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if broken, _ := Broken(r); len(broken) != 1 || !strings.Contains(broken[0], "1 keys below "+Prefix) {
		t.Errorf("broken is %q", broken)
	}
	if r, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte(Prefix + "mine")}); err != nil || len(r.Kvs) != 1 {
		t.Errorf("the key is %v, %v", r, err)
	}
}

// A server of HTTP/2 that knows nothing of gRPC answers every path with 404, which gRPC takes for Unimplemented.
func TestTargetThatIsNoEtcdIsAFailure(t *testing.T) {
	t.Parallel()
	page := httptest.NewUnstartedServer(http.NotFoundHandler())
	page.EnableHTTP2 = true
	page.StartTLS()
	defer page.Close()
	o := short(t, "put", "lease-keepalive")
	o.External = []External{{Name: "a page", Endpoints: []string{page.Listener.Addr().String()}, TLS: &tls.Config{InsecureSkipVerify: true}}}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if broken, _ := Broken(r); len(broken) != 1 || !strings.Contains(broken[0], "404") {
		t.Errorf("broken is %q", broken)
	}
	for _, s := range r.Scenarios {
		if s.Results[0].Unsupported != "" {
			t.Errorf("%s has %+v", s.Name, s.Results[0])
		}
	}
}

// Any endpoint can delete the keys; if none does, the user is told how to.
func TestKeysAreDeletedByWhoeverAnswers(t *testing.T) {
	t.Parallel()
	addr, err := proc.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	e, tg, conn := running(t)
	kv := pb.NewKVClient(conn)
	if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte(Prefix + "left"), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	addUser(t, conn, "secret")
	e.User, e.Password = "bench", "secret"
	e.Endpoints = []string{addr, tg.Endpoint}
	h := &externalHost{External: e}
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	s := &System{Endpoints: e.Endpoints, Store: e.Endpoints, Client: client.Config{TLS: e.TLS}, servers: h}
	if err := h.clear(cut, s); err != nil {
		t.Fatal(err)
	}
	h.User, h.Password = "root", "root"
	if err := h.renewAt(t.Context(), s, 1); err != nil {
		t.Fatal(err)
	}
	if err := h.ask(t.Context(), s, 1, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(Prefix), RangeEnd: load.PrefixEnd(Prefix)})
		if err == nil && len(r.Kvs) != 0 {
			err = fmt.Errorf("left are %v", r.Kvs)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	h.Endpoints = []string{addr, addr}
	s.Store = h.Endpoints
	want := fmt.Sprintf("`etcdctl --endpoints=https://%s,https://%s --user=root del --prefix loadtest/`", addr, addr)
	if err := h.clear(cut, s); err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "refused") != 2 {
		t.Errorf("error %v, want %s", err, want)
	}
}

// A target that is down, or that wants to know who asks, is named with its endpoint.
func TestTargetThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	addr, err := proc.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	o := short(t, "put", "get-serializable")
	o.Rounds = 2
	o.External = []External{{Name: "down", Endpoints: []string{addr}}}
	began := time.Now()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	broken, _ := Broken(r)
	if len(broken) != 1 || !strings.Contains(broken[0], addr) || !strings.Contains(broken[0], "refused") {
		t.Errorf("broken is %q", broken)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v to say so", took)
	}
	if len(r.Scenarios) != 1 || !strings.Contains(r.Caveats[0], "It lacks turns of get-serializable") {
		t.Errorf("after it had not answered in the first of %d scenarios it was asked on; the report says %q", len(r.Scenarios), r.Caveats)
	}
	if of := r.Scenarios[0].Results[0]; len(of.Turns) != 0 || len(of.Failed) != 2 {
		t.Errorf("%s has %+v", r.Scenarios[0].Name, of)
	}
}

func TestWrongPasswordIsNamed(t *testing.T) {
	t.Parallel()
	e, _, conn := running(t)
	addUser(t, conn, "secret")
	e.User, e.Password = "bench", "guessed"
	o := short(t, "put")
	o.External = []External{e}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if broken, _ := Broken(r); len(broken) != 1 || !strings.Contains(broken[0], "authenticate bench") || strings.Contains(broken[0], "guessed") {
		t.Errorf("broken is %q", broken)
	}
}

// What the run leaves in the history is said, and taken away for whoever wants that.
func TestHistoryOfTheTarget(t *testing.T) {
	t.Parallel()
	e, _, conn := running(t)
	kv := pb.NewKVClient(conn)
	first, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("theirs"), Value: []byte("v")})
	if err != nil {
		t.Fatal(err)
	}
	said := func(want string) {
		t.Helper()
		o := short(t, "put-1-client")
		o.External = []External{e}
		r := runWhole(t, o)
		if caveat := r.Caveats[len(r.Caveats)-1]; !strings.Contains(caveat, want) {
			t.Errorf("the report says %q, want %q", caveat, want)
		}
	}
	atFirst := &pb.RangeRequest{Key: []byte("theirs"), Revision: first.Header.Revision}
	said("not compacted")
	if _, err := kv.Range(t.Context(), atFirst); err != nil {
		t.Errorf("the history before the run is gone: %v", err)
	}
	e.Compact = true
	said("Then it was compacted")
	if _, err := kv.Range(t.Context(), atFirst); err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("the history is as it was: %v", err)
	}
}

// Clients and servers that disagree about TLS would only hear of connections that were closed.
func TestWhoDisagreesAboutTLSIsToldWhatToDo(t *testing.T) {
	t.Parallel()
	e, _, _ := running(t)
	plain, core := targettest.Start(t, bin, target.Etcd37), targettest.Start(t, bin, target.Core)
	for name, c := range map[string]struct {
		addr string
		tls  *tls.Config
		want string
	}{
		"a client without TLS":           {e.Endpoints[0], nil, "the target speaks TLS: give -cacert"},
		"a client that does not know it": {e.Endpoints[0], &tls.Config{}, "not trusted: give -cacert"},
		"a core without TLS":             {core.Endpoint, e.TLS, "not to speak TLS: leave away https://"},
		"a server without TLS":           {plain.Endpoint, e.TLS, "not to speak TLS: leave away https://"},
	} {
		h := &externalHost{External: External{Name: "theirs", Endpoints: []string{c.addr}, TLS: c.tls}}
		_, err := h.start(t.Context(), Scenario{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if got := strings.Join(h.describe(t.Context()).Programs, " "); !strings.Contains(got, c.want) {
			t.Errorf("%s: programs are %q", name, got)
		}
	}
}

func TestVersionIsInWeirsMetrics(t *testing.T) {
	for metrics, want := range map[string]string{
		"# TYPE weir_build_info gauge\nweir_build_info{program=\"core\",version=\"1.2.3\"} 1\nweir_level 2\n": " 1.2.3",
		"# TYPE weir_level gauge\nweir_level 2\nother{version=\"4\"} 1\n":                                     "",
		"": "",
	} {
		if got := weirVersion(metrics); got != want {
			t.Errorf("%q: %q, want %q", metrics, got, want)
		}
	}
}

// Who may not compact is told before the run, and what only starts with options is not said of what runs already.
func TestWhoMayNotCompactIsToldAtOnce(t *testing.T) {
	t.Parallel()
	e, _, conn := running(t)
	addUser(t, conn, "secret")
	e.User, e.Password, e.Compact = "bench", "secret", true
	o := short(t, "get-serializable", "put")
	o.External = []External{e}
	var told []string
	o.Progress = func(e Event) { told = append(told, e.Now) }
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if broken, _ := Broken(r); len(broken) != 1 || !strings.Contains(broken[0], "take a user with the role root") || len(r.Scenarios) != 1 {
		t.Errorf("broken is %q after %d scenarios", broken, len(r.Scenarios))
	}
	if text := r.Scenarios[0].Description; strings.Contains(text, "that were started") || strings.Contains(strings.Join(told, " "), "start all") {
		t.Errorf("of a target that runs already is said %q, and %q", text, told)
	}
	e.User, e.Password = "root", "root"
	h := &externalHost{External: e}
	if _, err := h.start(t.Context(), Scenario{}); err != nil {
		t.Errorf("root: %v", err)
	}
}
