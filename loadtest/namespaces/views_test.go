package namespaces

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// RangeStream is of etcd 3.7.
func TestRangeStreamIsOfTheNamespace(t *testing.T) {
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyCore, target.ProxyProxyEtcd37}, func(s *site) {
		want := ""
		for i := range 50 {
			key := fmt.Sprintf("k%02d", i)
			_, err := s.inside.Put(s.Ctx, key, strings.Repeat("v", 1000))
			s.Must(err)
			_, err = s.store.Put(s.Ctx, key, "outside")
			s.Must(err)
			want += key + " "
		}
		for range 5 { // at first from upstream, then from memory
			stream, err := pb.NewKVClient(s.inside.ActiveConnection()).RangeStream(s.Ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
			s.Must(err)
			got := ""
			for {
				r, err := stream.Recv()
				if err == io.EOF {
					break
				}
				s.Must(err)
				for _, kv := range r.RangeResponse.GetKvs() {
					got += string(kv.Key) + " "
				}
			}
			targettest.Want(s, "keys of the stream", got, want)
		}
	})
}

// A watch is of the past and of the future, whole and in fragments, with progress.
func TestWatchesAreOfTheNamespace(t *testing.T) {
	at(t, everywhere, func(s *site) {
		write := func(value string) {
			txn := func(prefix string) []clientv3.Op {
				var ops []clientv3.Op
				for i := range 20 {
					ops = append(ops, clientv3.OpPut(fmt.Sprintf("%sk%02d", prefix, i), value+strings.Repeat("v", 100_000)))
				}
				return ops
			}
			_, err := s.store.Txn(s.Ctx).Then(txn("k")[:2]...).Commit()
			s.Must(err)
			_, err = s.inside.Txn(s.Ctx).Then(txn("")[:10]...).Commit()
			s.Must(err)
		}
		write("past")
		history := s.inside.Watch(s.Ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(1))
		pieces := s.inside.Watch(s.Ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithFragment(), clientv3.WithCreatedNotify())
		one := s.inside.Watch(clientv3.WithRequireLeader(s.Ctx), "k03", clientv3.WithCreatedNotify())
		for _, created := range []clientv3.WatchChan{pieces, one} {
			if r := <-created; !r.Created {
				s.Fatalf("got %v", r)
			}
		}
		write("now")
		s.wantEvents(history, 20, "past", "now")
		s.wantEvents(pieces, 10, "now")
		s.wantEvents(one, 1, "now")
		s.Must(s.inside.RequestProgress(s.Ctx))
		s.Must(s.inside.RequestProgress(clientv3.WithRequireLeader(s.Ctx)))
		for _, w := range []clientv3.WatchChan{history, pieces, one} {
			if r := <-w; !r.IsProgressNotify() {
				s.Errorf("got %v, want progress", r)
			}
		}
	})
}

// wantEvents takes that many events and looks at what they say.
func (s *site) wantEvents(w clientv3.WatchChan, n int, values ...string) {
	s.Helper()
	got := 0
	for got < n {
		r, ok := <-w
		if s.Must(r.Err()); !ok {
			s.Fatal("the watch has ended")
		}
		for _, e := range r.Events {
			got++
			ok := false
			for _, v := range values {
				ok = ok || strings.HasPrefix(string(e.Kv.Value), v)
			}
			if !ok || !strings.HasPrefix(string(e.Kv.Key), "k") || e.PrevKv != nil && string(e.PrevKv.Key) != string(e.Kv.Key) {
				s.Errorf("event of %q", e.Kv.Key)
			}
		}
	}
	targettest.Want(s, "events", got, n)
}

// The JSON gateway is a way in like any other.
func TestGatewayIsInTheNamespace(t *testing.T) {
	at(t, everywhere, func(s *site) {
		post := func(path, body string) string {
			req, err := http.NewRequestWithContext(s.Ctx, http.MethodPost, "http://"+s.Endpoint()+path, strings.NewReader(body))
			s.Must(err)
			r, err := http.DefaultClient.Do(req)
			s.Must(err)
			defer r.Body.Close()
			text, err := io.ReadAll(r.Body)
			s.Must(err)
			return string(text)
		}
		_, err := s.store.Put(s.Ctx, "a", "outside")
		s.Must(err)
		post("/v3/kv/put", `{"key":"YQ==","value":"MQ=="}`) // a, 1
		s.wantStored(s.prefix + "a")
		got := post("/v3/kv/range", `{"key":"AA==","range_end":"AA=="}`)
		if !strings.Contains(got, `"kvs":[{"key":"YQ=="`) || !strings.Contains(got, `"count":"1"`) {
			s.Errorf("got %s", got)
		}
	})
}
