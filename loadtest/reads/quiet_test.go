package reads

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// The tests of this file are of ranges in memory that nobody reads or writes, while the rest of the store changes. Only
// the proxy itself can keep track of how fresh they are, and of whether their past has been compacted: so none of the
// tests reads the range from when it is loaded until it asks what it is about.

// newQuietSite has one pair below /quiet/, of revision rev, and that in memory, unread.
func newQuietSite(t *testing.T, kind target.Kind) (s *site, rev int64) {
	t.Helper()
	s = newSiteWith(t, kind, targettest.SiteOptions{NoProxies: true, ProxyArgs: []string{"--cache-prefix=/quiet/,/busy/"}})
	rev = s.member().put("/quiet/1", "quiet")
	s.StartProxies(s.Cluster.Endpoints())
	s.awaitLoaded(s.Front())
	return s, rev
}

// awaitLoaded waits until a proxy has loaded all ranges that it was told to keep. Unlike awaitCached it reads none.
func (s *site) awaitLoaded(p *target.Server) {
	s.Helper()
	s.Eventually(20*time.Second, "ranges in memory", func() error {
		var now struct{ Reads struct{ Ranges, Loading int } }
		if err := p.Status(s.Ctx, &now); err != nil {
			return err
		}
		if now.Reads.Ranges == 0 || now.Reads.Loading > 0 {
			return errNotYet
		}
		return nil
	})
}

// paced is how far apart requests are that keep a store changing, but leave the machine to others.
const paced = 15 * time.Millisecond

// repeat does something again and again, paced, while more returns true.
func repeat(more func() bool, do func()) {
	pace := time.NewTicker(paced)
	defer pace.Stop()
	for more() {
		do()
		<-pace.C
	}
}

// within returns true until so much time has passed.
func within(d time.Duration) func() bool {
	begun := time.Now()
	return func() bool { return time.Since(begun) < d }
}

// A range that nobody has read for as long as upstream was busy with others is still answered when upstream is away, and
// says how old it may be: not less than upstream is away, and not from before it was loaded.
func TestQuietRangeIsReadWhileUpstreamIsAway(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			quietWhileAway(t, kind)
		})
	}
}

func quietWhileAway(t *testing.T, kind target.Kind) {
	begun := time.Now()
	s, rev := newQuietSite(t, kind)
	direct, c := s.member(), s.dial()
	// What the proxy remembers of upstream's revisions goes back some seconds, for which it must be told of many of them.
	rounds := 300
	repeat(func() bool { rounds--; return rounds >= 0 }, func() {
		direct.put("/busy/1", fmt.Sprint(rounds))
		targettest.Want(s, "linearizable value", string(c.get(single("/busy/1")).Kvs[0].Value), fmt.Sprint(rounds))
	})
	if c.hits() < 250 { // it asks what the revision is for reads from memory only
		s.Error("reads of what is busy were not answered from memory: the test proves nothing")
	}
	m := s.Cluster.Members[0]
	s.Must(m.Kill())
	killed := time.Now()
	s.Eventually(maxStaleness+slack, "an answer that says it may be old", func() error {
		away := time.Since(killed)
		resp, age := s.dial().readStale(serializable(single("/quiet/1"))) // on a new connection, which was told nothing
		targettest.Want(s, "value", pairs(resp), fmt.Sprintf("/quiet/1=%q@%d ", "quiet", rev))
		if age == "" {
			return errNotYet
		}
		may, err := time.ParseDuration(age)
		s.Must(err)
		if most := time.Since(begun); may < away || may > most {
			s.Errorf("upstream has been away for %v, and all began %v ago; %s is %v", away, most, staleKey, may)
		}
		s.Logf("%s is %v when upstream has been away for %v", staleKey, may, away)
		return nil
	})
	s.Must(m.Restart())
	s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
}

// A compaction is honoured within a second by reads of a range too that has not changed, nor been read, since it was
// loaded: at the revision at which it was.
func TestCompactionOfAQuietRangeIsHonouredWithinASecond(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s, rev := newQuietSite(t, kind)
			// The first read may have the proxy find out: each kind is the first one somewhere.
			other := s.StartProxy(s.Cluster.Endpoints())
			s.awaitLoaded(other)
			compactedWhileQuiet(s, rev, s.dial(), s.dialTo(other.Addr, "another proxy"))
		})
	}
}

// compactedWhileQuiet has each of two proxies asked at rev.
func compactedWhileQuiet(s *site, rev int64, one, another *client) {
	direct, head := s.member(), int64(0)
	for i := range 50 {
		head = direct.put("/elsewhere", fmt.Sprint(i))
	}
	direct.compact(head)
	repeat(within(compactedWithin), func() { direct.put("/elsewhere", "after") })
	for _, r := range []*pb.RangeRequest{pinned(single("/quiet/1"), rev), pinned(below("/quiet/"), rev)} {
		for _, read := range []struct {
			from *client
			r    *pb.RangeRequest
		}{{one, r}, {another, serializable(r)}, {one, serializable(r)}, {another, r}} {
			_, err := read.from.read(read.r)
			targettest.Want(s, fmt.Sprintf("error of %v from %s", read.r, read.from.name), errText(err), errText(rpctypes.ErrGRPCCompacted))
		}
	}
}

// Upstream has hung for a moment, and a linearizable read of the range has failed. That does not count any more when
// upstream is well again, although nobody has read the range since: the first serializable read is within --max-staleness,
// and not said to be old.
func TestFirstReadAfterAnOutageIsFresh(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s, _ := newQuietSite(t, kind)
			freshAfterOutage(s)
		})
	}
}

func freshAfterOutage(s *site) {
	const (
		outage = 2 * time.Second // more than the proxy waits for a revision of upstream, which is a second
		after  = 3 * time.Second // more than --max-staleness
	)
	m, direct, c := s.Cluster.Members[0], s.member(), s.dial()
	s.Must(m.Pause())
	s.Eventually(2*outage, "a linearizable read that is not answered", func() error { // the first may just slip through
		ctx, cancel := context.WithTimeout(s.Ctx, outage)
		defer cancel()
		if _, err := c.kv.Range(ctx, single("/quiet/1")); status.Code(err) != codes.DeadlineExceeded {
			return fmt.Errorf("it ends with %s", errText(err))
		}
		return nil
	})
	s.Must(m.Resume())
	s.Eventually(backWithin, "a linearizable read elsewhere", func() error {
		_, err := c.read(single("/elsewhere"))
		return err
	})

	type write struct {
		rev int64
		at  time.Time // when it had been acknowledged
	}
	var writes []write
	repeat(within(after), func() { writes = append(writes, write{direct.put("/elsewhere", "after"), time.Now()}) })
	asked := time.Now()
	resp, age := s.dial().readStale(serializable(single("/quiet/1")))
	targettest.Want(s, staleKey, age, "")
	least := int64(0)
	for _, w := range writes {
		if asked.Sub(w.at) >= maxStaleness {
			least = w.rev
		}
	}
	if least == 0 {
		s.Errorf("none of %d writes was made %v before the read: the test proves nothing", len(writes), maxStaleness)
	}
	if resp.Header.Revision < least {
		s.Errorf("the answer is of revision %d, but %d was acknowledged %v before", resp.Header.Revision, least, maxStaleness)
	}
}
