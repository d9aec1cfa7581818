package reads

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// staleKey is the response metadata of an answer that may be old, because upstream is away.
const staleKey = "weir-stale"

const (
	// failsWithin bounds how long a read waits for a member that does not answer: the time in which etcd would agree on it,
	// after two checks that were waited for.
	failsWithin = (7+2)*time.Second + 2*slack
	// backWithin bounds how long the proxy takes to find a member again that is back.
	backWithin = 10 * time.Second
)

// away is a way for upstream to be away, and to come back.
type away struct {
	name       string
	gone, back func(*site)
}

// all calls a method of every member.
func all(f func(*target.Member) error) func(*site) {
	return func(s *site) {
		s.Helper()
		for _, m := range s.Cluster.Members {
			s.Must(f(m))
		}
	}
}

var waysToBeAway = []away{
	{"paused", all((*target.Member).Pause), all((*target.Member).Resume)},
	{"killed", all((*target.Member).Kill), all((*target.Member).Restart)},
}

// While upstream is away serializable reads go on from memory and say how old they may be; linearizable ones fail as at
// etcd, and none hangs. When it is back, both are fresh.
func TestSerializableReadsGoOnWhileUpstreamIsAway(t *testing.T) {
	t.Parallel()
	for _, w := range waysToBeAway {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			at(t, []target.Kind{target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyEtcd37}, func(s *site) {
				readsWhileAway(s, w)
			}, "--cache-prefix=/hot/", "--cache-bytes=1000000")
		})
	}
}

func readsWhileAway(s *site, w away) {
	direct, known := s.member(), s.dial()
	all := targettest.Keys("/hot/", 20)
	direct.putAll(all, "before")
	for _, key := range targettest.Keys("/cold/", 2) { // more than there is room for
		direct.put(key, strings.Repeat("x", 1_000_000))
	}
	newest := known.put(all[0], "newest")
	known.awaitCached(below("/hot/"))
	w.gone(s)

	// Linearizable reads and such as memory does not have fail, while others are answered.
	type failure struct {
		r    *pb.RangeRequest
		err  error
		took time.Duration
	}
	failures := make(chan failure)
	failing := []*pb.RangeRequest{below("/hot/"), single(all[3]), below("/cold/"), serializable(below("/cold/"))}
	for _, r := range failing {
		c := s.dial()
		go func() {
			ctx, cancel := context.WithTimeout(s.Ctx, 3*failsWithin)
			defer cancel()
			begun := time.Now()
			_, err := c.kv.Range(ctx, r)
			failures <- failure{r, err, time.Since(begun)}
		}()
	}
	// A session that has been told of the newest revision is answered too: memory has it. So is one that is new.
	for _, c := range []*client{known, s.dial()} {
		s.Eventually(maxStaleness+slack+time.Second, "an answer that says it may be old", func() error {
			resp, age := c.readStale(serializable(below("/hot/")))
			targettest.Want(s, "pairs", len(resp.Kvs), 20)
			targettest.Want(s, "newest value", string(resp.Kvs[0].Value), "newest")
			targettest.Want(s, "revision", resp.Header.Revision >= newest, true)
			if age == "" {
				return errNotYet
			}
			return nil
		})
		for range 5 {
			resp, age := c.readStale(serializable(single(all[0])))
			targettest.Want(s, "newest value", string(resp.Kvs[0].Value), "newest")
			targettest.Want(s, staleKey+" is told", age != "", true)
		}
	}
	for range failing {
		f := <-failures
		switch {
		case f.err == nil:
			s.Errorf("%v is answered although upstream is away", f.r)
		case status.Code(f.err) != codes.Unavailable && !strings.Contains(f.err.Error(), "etcdserver: request timed out"):
			s.Errorf("%v fails otherwise: %v", f.r, f.err)
		case f.took > failsWithin:
			s.Errorf("%v fails after %v only", f.r, f.took)
		}
	}

	w.back(s)
	for _, m := range s.Cluster.Members {
		s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
	}
	direct.put(all[1], "after")
	direct.put("/cold/000001", "after")
	for _, r := range []*pb.RangeRequest{below("/hot/"), below("/cold/")} {
		s.Eventually(backWithin, fmt.Sprintf("%v when upstream is back", r), func() error {
			resp, err := known.read(r)
			if err == nil {
				targettest.Want(s, "linearizable value when upstream is back", string(resp.Kvs[1].Value), "after")
			}
			return err
		})
	}
	s.Eventually(backWithin, "fresh serializable reads", func() error {
		resp, age := s.dial().readStale(serializable(below("/hot/")))
		if age != "" || string(resp.Kvs[1].Value) != "after" {
			return fmt.Errorf("%s: %q, value %q", staleKey, age, resp.Kvs[1].Value)
		}
		return nil
	})
}

// readStale is get, and what the answer says of its age.
func (c *client) readStale(r *pb.RangeRequest) (resp *pb.RangeResponse, age string) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, failsWithin)
	defer cancel()
	var header, trailer metadata.MD
	resp, err := c.kv.Range(ctx, r, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		c.Fatalf("%s: %v: %v", c.name, r, err)
	}
	c.told(resp.Header)
	return resp, strings.Join(append(header.Get(staleKey), trailer.Get(staleKey)...), ",")
}

// A cluster that is restored from an older backup, or has lost its data, has another history. From when the proxy has met
// it, nothing of the old one is read any more: not by clients who knew it, whose revisions begin anew, nor by others.
func TestReplacedClusterIsNotReadFromMemory(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyProxyEtcd37} {
		t.Run("restored/"+string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, cacheAll)
			replaced(s, func() func() {
				backup := s.Backup()
				return func() { s.Restore(backup) }
			})
		})
	}
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37, target.ProxyCore} {
		t.Run("lost/"+string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, cacheAll)
			replaced(s, func() func() { return s.Wipe })
		})
	}
}

// replaced calls prepare before what will be lost is written, and what that returns to lose it.
func replaced(s *site, prepare func() func()) {
	direct, known := s.member(), s.dial()
	for i := range 20 {
		direct.put("/a/1", fmt.Sprint("kept ", i))
	}
	replace := prepare()
	for i := range 200 {
		direct.put("/a/1", fmt.Sprint("lost ", i))
	}
	s.awaitCached(below("/a/"))
	lost := string(known.get(below("/a/")).Kvs[0].Value)
	targettest.Want(s, "value", string(known.get(serializable(below("/a/"))).Kvs[0].Value), lost)
	replace()

	s.member().put("/a/1", "new")
	known.newest = 0
	isNew := func(c *client, r *pb.RangeRequest) error {
		resp, err := c.kv.Range(c.ctx, r)
		switch {
		case err != nil:
			return err
		case string(resp.Kvs[0].Value) != "new":
			return fmt.Errorf("it is %s", pairs(resp))
		}
		return nil
	}
	requests := []*pb.RangeRequest{below("/a/"), single("/a/1"), fromKey("\x00")}
	// Linearizable reads are never of the old history, not even while the proxy does not know it.
	for _, r := range requests {
		for _, c := range []*client{known, s.dial()} {
			s.Eventually(backWithin, fmt.Sprintf("linearizable %v", r), func() error {
				resp, err := c.kv.Range(c.ctx, r)
				if err == nil {
					targettest.Want(s, "linearizable value", string(resp.Kvs[0].Value), "new")
				}
				return err
			})
		}
	}
	for _, r := range requests {
		for _, c := range []*client{known, s.dial()} {
			s.Eventually(backWithin, fmt.Sprintf("serializable %v", r), func() error { return isNew(c, serializable(r)) })
		}
	}
	s.awaitCached(below("/a/"))
	for _, r := range requests {
		for _, c := range []*client{known, s.dial()} {
			for _, r := range []*pb.RangeRequest{r, serializable(r)} {
				if err := isNew(c, r); err != nil {
					s.Errorf("%v once the proxy knows: %v", r, err)
				}
			}
		}
	}
}
