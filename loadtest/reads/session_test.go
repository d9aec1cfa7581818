package reads

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A client reads what it has just written on the same connection, serializably too, whether it reads from memory or not.
func TestOwnWritesAreRead(t *testing.T) {
	t.Parallel()
	at(t, []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyCore}, ownWrites, "--cache-prefix=/hot/")
}

func ownWrites(s *site) {
	const writers, rounds = 8, 15
	s.member().put("/hot/", "first")
	s.awaitCached(below("/hot/"))
	var writing sync.WaitGroup
	for n := range writers {
		c := s.dial()
		writing.Go(func() {
			for i := range rounds {
				for _, prefix := range []string{"/hot/", "/cold/"} {
					if err := c.writeAndRead(fmt.Sprintf("%s%d/", prefix, n), i); err != nil {
						s.Errorf("writer %d, round %d: %v", n, i, err)
						return
					}
				}
			}
		})
	}
	writing.Wait()
}

// writeAndRead writes below prefix, where nobody else does, by every kind of write, and reads after each.
func (c *client) writeAndRead(prefix string, i int) error {
	value := fmt.Sprint(i)
	a, b, d := prefix+"a", prefix+"b", prefix+"d"
	for _, step := range []struct {
		txn  *pb.TxnRequest
		want map[string]string
	}{
		{&pb.TxnRequest{Success: []*pb.RequestOp{targettest.PutOp(a, value)}}, map[string]string{a: value}},
		{&pb.TxnRequest{Success: []*pb.RequestOp{targettest.PutOp(b, value), targettest.PutOp(d, value)}}, map[string]string{a: value, b: value, d: value}},
		{&pb.TxnRequest{Success: []*pb.RequestOp{targettest.DeleteOp(a), targettest.PutOp(d, "again")}}, map[string]string{b: value, d: "again"}},
		{&pb.TxnRequest{Success: []*pb.RequestOp{targettest.DeleteOp(b), targettest.DeleteOp(d)}}, map[string]string{}},
	} {
		written, err := c.write(step.txn)
		if err != nil {
			return err
		}
		for _, r := range []*pb.RangeRequest{serializable(below(prefix)), serializable(single(d)), below(prefix)} {
			resp, err := c.read(r)
			if err != nil {
				return err
			}
			if resp.Header.Revision < written {
				return fmt.Errorf("%v is answered at revision %d, after a write of %d", r, resp.Header.Revision, written)
			}
			for _, kv := range resp.Kvs {
				if step.want[string(kv.Key)] != string(kv.Value) {
					return fmt.Errorf("%v brings %s=%s, but %v was written", r, kv.Key, kv.Value, step.want)
				}
			}
			if len(r.RangeEnd) > 0 && len(resp.Kvs) != len(step.want) {
				return fmt.Errorf("%v brings %s, but %v was written", r, pairs(resp), step.want)
			}
		}
	}
	return nil
}

// write sends what is written as what it is: a put or a deletion alone is no transaction.
func (c *client) write(r *pb.TxnRequest) (rev int64, err error) {
	c.Helper()
	var h *pb.ResponseHeader
	if put := r.Success[0].GetRequestPut(); put != nil && len(r.Success) == 1 {
		var resp *pb.PutResponse
		resp, err = c.kv.Put(c.ctx, put)
		h = resp.GetHeader()
	} else {
		var resp *pb.TxnResponse
		resp, err = c.kv.Txn(c.ctx, r)
		h = resp.GetHeader()
	}
	if err == nil {
		c.told(h)
	}
	return h.GetRevision(), err
}

// The revisions that one connection is told never go back, whichever ranges are read and however, while others write.
func TestRevisionsOfAConnectionNeverGoBack(t *testing.T) {
	t.Parallel()
	at(t, []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyProxyEtcd37, target.ProxyProxyCore}, neverBack, "--cache-prefix=/hot/,/warm/")
}

func neverBack(s *site) {
	const readers, reads = 8, 250
	direct := s.member()
	direct.put("/warm/1", "quiet") // what is in memory without events must not be taken for old, nor be old
	direct.putAll(targettest.Keys("/hot/", 10), "first")
	direct.putAll(targettest.Keys("/cold/", 10), "first")
	for _, prefix := range []string{"/hot/", "/warm/"} {
		s.awaitCached(below(prefix))
	}
	rng := targettest.Random(s, *seed)
	var done atomic.Bool
	var writing, reading sync.WaitGroup
	writing.Go(func() {
		for i := 0; !done.Load(); i++ {
			key := fmt.Sprintf("%s%06d", []string{"/hot/", "/cold/", "/elsewhere/"}[i%3], i%10)
			if _, err := direct.write(&pb.TxnRequest{Success: []*pb.RequestOp{targettest.PutOp(key, fmt.Sprint(i))}}); err != nil {
				s.Error(err)
				return
			}
		}
	})
	for n := range readers {
		c, own := s.dial(), make([]int, reads)
		for i := range own {
			own[i] = rng.IntN(11)
		}
		reading.Go(func() {
			for _, kind := range own {
				if err := c.readSomehow(kind, n); err != nil {
					s.Errorf("reader %d: %v", n, err)
					return
				}
			}
		})
	}
	reading.Wait()
	done.Store(true)
	writing.Wait()
}

// readSomehow sends a request of one of eleven kinds. That revisions do not go back is checked by the client.
func (c *client) readSomehow(kind, n int) error {
	requests := []*pb.RangeRequest{
		serializable(below("/hot/")), serializable(below("/cold/")), serializable(below("/warm/")), serializable(fromKey("/")),
		below("/hot/"), below("/cold/"), below("/warm/"),
		serializable(pinned(below("/hot/"), c.newest)), serializable(pinned(below("/cold/"), c.newest)),
	}
	var err error
	switch {
	case kind < len(requests):
		_, err = c.read(requests[kind])
	case kind == len(requests):
		var resp *pb.TxnResponse
		if resp, err = c.kv.Txn(c.ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
			rangeOp(serializable(below("/hot/"))), rangeOp(serializable(below("/warm/"))),
		}}); err == nil {
			c.told(resp.Header)
		}
	default:
		_, err = c.write(&pb.TxnRequest{Success: []*pb.RequestOp{targettest.PutOp(fmt.Sprintf("/hot/own/%d", n), "value")}})
	}
	return err
}

// A member that has been away, and is left alone, answers serializable reads of an old revision. A proxy that has only
// this one takes no connection back to what it has been told already: it is told that this cannot be.
func TestLaggingMemberDoesNotTakeAConnectionBack(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"--cache-bytes=0", cacheAll} {
		t.Run(arg, func(t *testing.T) {
			t.Parallel()
			lagging(newSiteWith(t, target.ProxyEtcd37, targettest.SiteOptions{Members: 3, ProxyArgs: []string{arg}, NoProxies: true}))
		})
	}
}

func lagging(s *site) {
	behind, others := s.Cluster.Members[2], s.Cluster.Members[:2]
	straight := s.dialTo(behind.Addr, "the member that is behind")
	s.member().put("/a/1", "old")
	targettest.Want(s, "pairs at the member", len(straight.get(single("/a/1")).Kvs), 1)
	s.Must(behind.Pause())
	for _, m := range others { // the connections to the member that is paused may already bring it what comes now
		s.Must(m.Kill())
		s.Must(m.Restart())
	}
	for _, m := range others {
		s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
	}
	s.StartProxies(s.Cluster.Endpoints())
	c := s.dial()
	written := c.put("/a/1", "new")
	if s.ProxyArgs[0] == cacheAll {
		s.awaitCached(below("/a/"))
	}
	for _, m := range others {
		s.Must(m.Kill())
	}
	s.Must(behind.Resume())
	old := func(c *client) func() error {
		return func() error {
			r, err := c.read(serializable(single("/a/1")))
			if err == nil && string(r.Kvs[0].Value) != "old" {
				err = fmt.Errorf("it answers %s", pairs(r))
			}
			return err
		}
	}
	s.Eventually(backWithin, "an old answer by the member", old(straight))
	if s.ProxyArgs[0] != cacheAll {
		s.Eventually(backWithin, "an old answer for who has not been told of the new one", old(s.dial()))
	}
	var reading sync.WaitGroup
	for _, r := range []*pb.RangeRequest{serializable(single("/a/1")), serializable(below("/a/")), serializable(fromKey("/a/"))} {
		reading.Go(func() {
			resp, err := c.kv.Range(s.Ctx, r)
			switch {
			case err == nil && resp.Header.Revision < written:
				s.Errorf("%v is answered at revision %d, but the connection has written %d", r, resp.Header.Revision, written)
			case err != nil && status.Code(err) != codes.Unavailable:
				s.Errorf("%v fails otherwise: %v", r, err)
			}
		})
	}
	reading.Wait()
	for _, m := range others {
		s.Must(m.Restart())
	}
	s.Eventually(2*backWithin, "an answer when all are back", func() error {
		resp, err := c.read(serializable(single("/a/1")))
		if err == nil {
			targettest.Want(s, "value", string(resp.Kvs[0].Value), "new")
		}
		return err
	})
}
