package reads

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// upstream is what the member was asked and has sent, all together.
type upstream struct {
	ranges int
	sent   int
	at     time.Time
}

func (s *site) upstream() upstream {
	s.Helper()
	return upstream{ranges: s.Metric(rangesMetric), sent: s.Metric(sentMetric), at: time.Now()}
}

// since is what came after `before`.
func (s *site) since(before upstream) upstream {
	s.Helper()
	now := s.upstream()
	return upstream{ranges: now.ranges - before.ranges, sent: now.sent - before.sent}
}

// background bounds the range requests that a proxy makes by itself since then: whether authentication is on, how far
// upstream has compacted, and that what is in memory is still new enough.
func background(before upstream) int {
	const aSecond = 6
	return aSecond * (1 + int(time.Since(before.at)/time.Second))
}

// The tests of this file count what upstream is asked. They do not run beside others: on a busy machine fewer reads come
// at the same time, and what is in memory is checked more often.

// Ten thousand linearizable lists, by a hundred clients, cost upstream the checks of its revision that they share; it
// sends no list.
func TestLinearizableListsCostUpstreamOnlyChecks(t *testing.T) {
	const clients, lists, listed = 100, 100, 100
	s := newSite(t, target.ProxyEtcd37, "--cache-prefix=/list/")
	value := strings.Repeat("x", 256)
	s.member().putAll(targettest.Keys("/list/", listed), value)
	s.awaitCached(below("/list/"))
	var reading sync.WaitGroup
	before := s.upstream()
	for range clients {
		c := s.dial()
		reading.Go(func() {
			for range lists {
				if r, err := c.read(below("/list/")); err != nil || len(r.Kvs) != listed {
					s.Errorf("list of %d: %v", len(r.GetKvs()), err)
					return
				}
			}
		})
	}
	reading.Wait()
	cost := s.since(before)
	s.Logf("%d lists cost upstream %d range requests and %d bytes", clients*lists, cost.ranges, cost.sent)
	if cost.ranges > clients*lists/2 { // how many share one depends on how fast it is answered
		s.Errorf("%d range requests upstream for %d lists: they do not share their checks", cost.ranges, clients*lists)
	}
	// A check is answered with some 60 bytes.
	if most := 200*cost.ranges + 100_000; cost.sent > most {
		s.Errorf("upstream sent %d bytes for %d range requests, lists among them", cost.sent, cost.ranges)
	}
}

// With --read-check-interval there are no more checks than that allows; linearizable reads wait for one, and see what was
// written before they began.
func TestChecksKeepTheirInterval(t *testing.T) {
	const interval, clients, lists = 50 * time.Millisecond, 20, 20
	s := newSite(t, target.ProxyEtcd37, cacheAll, fmt.Sprintf("--read-check-interval=%v", interval))
	s.member().put("/list/", "first")
	s.awaitCached(below("/list/"))
	var reading sync.WaitGroup
	before := s.upstream()
	for n := range clients {
		c, direct := s.dial(), s.member()
		key := fmt.Sprintf("/list/%d", n)
		reading.Go(func() {
			for i := range lists {
				if _, err := direct.kv.Put(s.Ctx, &pb.PutRequest{Key: []byte(key), Value: fmt.Append(nil, i)}); err != nil {
					s.Error(err)
					return
				}
				if r, err := c.read(single(key)); err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != fmt.Sprint(i) {
					s.Errorf("linearizable read after %d was written: %s: %v", i, pairs(r), err)
					return
				}
			}
		})
	}
	reading.Wait()
	n, took := s.since(before).ranges, time.Since(before.at)
	s.Logf("%d reads in %v were %d range requests upstream", clients*lists, took, n)
	if most := 1 + int(took/interval) + background(before); n > most {
		s.Errorf("%d range requests upstream in %v, of at most %d", n, took, most)
	}
}

// A thousand clients that ask for the same at the same time, of what is not in memory, make one or two reads upstream.
func TestIdenticalReadsAtOnceAreOneOrTwoUpstream(t *testing.T) {
	s := newSite(t, target.ProxyEtcd37, "--cache-bytes=0")
	s.member().putAll(targettest.Keys("/list/", 10), strings.Repeat("x", 2000))
	atOnce(s, below("/list/"))
	atOnce(s, serializable(below("/list/")))
}

// sharePatience is after how long a read that waits for an identical one is sent, although that one is not answered.
const sharePatience = 100 * time.Millisecond

func atOnce(s *site, r *pb.RangeRequest) {
	s.Helper()
	const readers, connections = 1000, 10
	var (
		clients []*client
		size    int // of an answer
	)
	for range connections {
		c := s.dial()
		size = proto.Size(c.get(r))
		clients = append(clients, c)
	}
	forwarded := func() int {
		shared := s.status().SharedReads
		return shared.Calls + shared.Shared
	}
	before, until := s.upstream(), forwarded()+readers
	m := s.Cluster.Members[0]
	s.Must(m.Pause())
	paused := time.Now()
	var reading sync.WaitGroup
	for i := range readers {
		reading.Go(func() {
			resp, err := clients[i%connections].kv.Range(s.Ctx, r)
			if err != nil || len(resp.Kvs) != 10 {
				s.Errorf("read %d: %d pairs: %v", i, len(resp.GetKvs()), err)
			}
		})
	}
	s.Eventually(10*time.Second, "all reads waiting at the proxy", func() error {
		if n := forwarded(); n < until {
			return fmt.Errorf("%d of %d do", n-until+readers, readers)
		}
		return nil
	})
	// Those that come late, because the machine is busy, are further calls.
	most := 2 + int(time.Since(paused)/sharePatience)
	s.Must(m.Resume())
	reading.Wait()
	// What the proxy asks for itself is answered in few bytes.
	n := s.since(before).sent / size
	s.Logf("%d reads at once of %v were %d upstream", readers, r, n)
	if n < 1 || n > most {
		s.Errorf("%d reads at once of %v were %d upstream, of at most %d", readers, r, n, most)
	}
}

// A range that is read again and again is kept in memory without being told to, whether it is read as a list or key by
// key. From then on upstream is not asked for it.
func TestRangeThatIsReadOftenIsKept(t *testing.T) {
	const listed = 100
	all := targettest.Keys("/kept/", listed)
	for _, c := range []struct {
		name string
		read func(i int) *pb.RangeRequest
	}{
		{"as a list", func(int) *pb.RangeRequest { return below("/kept/") }},
		{"key by key", func(i int) *pb.RangeRequest { return single(all[i%listed]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			at(t, []target.Kind{target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyProxyEtcd37}, func(s *site) {
				s.member().putAll(all, strings.Repeat("x", 256))
				becomesKept(s, c.read)
			})
		})
	}
}

func becomesKept(s *site, read func(i int) *pb.RangeRequest) {
	const reads = 500
	c, i, rounds := s.dial(), 0, 0
	s.Eventually(20*time.Second, "reads without upstream requests", func() error {
		rounds++
		before := s.upstream()
		for range reads {
			if n := len(c.get(serializable(read(i))).Kvs); n == 0 {
				s.Fatalf("%v has no pairs", read(i))
			}
			i++
		}
		if n := s.since(before).ranges; n > background(before) {
			return fmt.Errorf("%d reads were %d range requests upstream", reads, n)
		}
		return nil
	})
	s.Logf("from read %d on", (rounds-1)*reads)
}
