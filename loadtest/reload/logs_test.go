package reload

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"weir/loadtest/target"
)

// Of one message there are at most so many lines in logPeriod, and one that counts the others.
const (
	logPeriod = 10 * time.Second
	logLines  = 21
)

// crowd does something so many times, a few at a time.
func crowd(times int, do func()) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range times / 8 {
				do()
			}
		})
	}
	all.Wait()
}

// wantFewLines checks that a log has grown by no more than a bounded number of lines of each message.
func wantFewLines(t *testing.T, what, log string, began time.Time) {
	t.Helper()
	periods := int(time.Since(began)/logPeriod) + 2
	messages := map[string]int{}
	for line := range strings.Lines(log) {
		var l struct{ Msg string }
		if json.Unmarshal([]byte(line), &l) == nil {
			messages[l.Msg]++
		}
	}
	if len(messages) > 30 {
		t.Errorf("%s: %d different messages", what, len(messages))
	}
	for msg, n := range messages {
		if n > periods*logLines {
			t.Errorf("%s: %d lines %q in %d periods", what, n, msg, periods)
		}
	}
}

func TestAFloodOfTroubleWritesFewLines(t *testing.T) {
	s := newSite(t, target.ProxyCore, withLimit(""))
	began, before := time.Now(), len(s.proxy.Log())
	member := s.Cluster.Members[0].Process
	memberBefore := len(member.Log())
	orders := s.dial(s.issue("orders"))

	crowd(10_000, func() { // requests that are refused
		if _, err := orders.Put(s.Ctx, "", "x"); err == nil {
			t.Error("an empty key was taken")
		}
	})
	stranger := s.authority.client(s.issue("stranger"))
	stranger.Certificates = nil
	crowd(2000, func() { // handshakes that fail, and what is none
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Error(err)
			return
		}
		secured := tls.Client(conn, stranger)
		_ = secured.HandshakeContext(s.Ctx)
		_ = conn.Close()
	})
	crowd(2000, func() { // streams that their client resets
		ctx, cancel := context.WithCancel(s.Ctx)
		w, err := pb.NewWatchClient(orders.ActiveConnection()).Watch(ctx)
		if err == nil {
			_ = w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}})
		}
		cancel()
	})
	s.Must(member.Kill()) // upstream is away
	<-member.Exited()
	deadline := time.Now().Add(3 * time.Second)
	crowd(8, func() {
		for time.Now().Before(deadline) {
			ctx, cancel := context.WithTimeout(s.Ctx, 100*time.Millisecond)
			_, _ = orders.Get(ctx, "k")
			cancel()
		}
	})
	wantFewLines(t, "the proxy", s.proxy.Log()[before:], began)
	wantFewLines(t, "the member", member.Log()[memberBefore:], began)
	s.Must(member.Restart())
}

// The marker is in all that nobody may read in a log.
const marker = "s3cr3t-m4rk3r"

func TestNoLogHasASecret(t *testing.T) {
	s := newSiteWith(t, target.ProxyCore, withLimit(""), "--log-level=debug")
	s.signal(syscall.SIGUSR1)
	s.logLevel("debug")
	ctx, member := s.Ctx, s.Cluster.Members[0].Process
	operator := s.dial(s.issue("operator"))
	for _, c := range []*clientv3.Client{operator, s.store} {
		watched := c.Watch(ctx, "key", clientv3.WithPrefix(), clientv3.WithPrevKV())
		lease, err := c.Grant(ctx, 60)
		s.Must(err)
		for i := range 20 {
			key := fmt.Sprint("key", i)
			_, err = c.Put(ctx, key, marker, clientv3.WithLease(lease.ID))
			s.Must(err)
			_, err = c.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", marker)).Then(clientv3.OpPut(key, marker+"2"), clientv3.OpGet(key)).Commit()
			s.Must(err)
			_, err = c.Get(ctx, "key", clientv3.WithPrefix())
			s.Must(err)
		}
		<-watched
		_, _ = c.Put(ctx, "", marker)                               // refused
		_, _ = c.Put(ctx, "key", marker+strings.Repeat("x", 3<<20)) // too large
		_, _ = c.Put(ctx, "key", marker, clientv3.WithLease(4711))  // no such lease
		_, _ = c.Txn(ctx).Then(clientv3.OpPut("a", marker), clientv3.OpPut("a", marker)).Commit()
		_, _ = c.Authenticate(ctx, "root", marker)
		session, err := concurrency.NewSession(c, concurrency.WithTTL(10))
		s.Must(err)
		s.Must(concurrency.NewElection(session, "/election").Campaign(ctx, marker))
		s.Must(session.Close())
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(marker))
	for _, body := range []string{
		`{"key": "a2V5", "value": "` + encoded + `"}`, `{"key": "a2V5", "value": "` + marker + `"}`, `{"key": {"` + marker + `": 1}}`, marker,
	} {
		resp, err := s.operator.Post("https://"+s.addr+"/v3/kv/put", "application/json", strings.NewReader(body))
		s.Must(err)
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	for _, u := range []string{"root", "ann"} {
		_, err := operator.UserAdd(ctx, u, marker)
		s.Must(err)
	}
	_, err := operator.UserChangePassword(ctx, "ann", marker+"2")
	s.Must(err)
	_, err = operator.UserGrantRole(ctx, "root", "root")
	s.Must(err)
	_, err = operator.AuthEnable(ctx)
	s.Must(err)
	token, err := s.store.Authenticate(ctx, "root", marker)
	s.Must(err)
	_, _ = s.store.Authenticate(ctx, "ann", marker) // an old password
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.Endpoint()+"/v3/kv/put", strings.NewReader(`{"key": "a2V5", "value": "`+encoded+`"}`))
	s.Must(err)
	r.Header.Set("Authorization", token.Token)
	resp, err := http.DefaultClient.Do(r)
	s.Must(err)
	resp.Body.Close()
	for name, log := range map[string]string{"proxy": s.proxy.Log(), "member": member.Log()} {
		if !strings.Contains(log, `"level":"debug"`) {
			t.Errorf("the %s's log has no debug line", name)
		}
		for _, secret := range []string{marker, encoded[:len(encoded)-4], token.Token} {
			if at := strings.Index(log, secret); at >= 0 {
				t.Errorf("the %s's log has a secret: %s", name, log[max(0, at-300):min(len(log), at+50)])
			}
		}
	}
}
