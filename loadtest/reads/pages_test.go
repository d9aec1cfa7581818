package reads

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A list read in pages is of the revision of its first page, while others write. Upstream sends nothing of it.
func TestPagesAreOfOneRevision(t *testing.T) {
	t.Parallel()
	at(t, []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyEtcd37}, pages, cacheAll)
}

// A list of listed keys has twenty times pageSize, so that it is never read by chance between two writes.
const (
	listed    = 400
	pageSize  = 20
	valueSize = 1000
)

// list is what one reader has put together.
type list struct {
	rev int64
	kvs []*mvccpb.KeyValue
}

func pages(s *site) {
	direct := s.member()
	all := targettest.Keys("/list/", listed)
	direct.putAll(all, strings.Repeat("x", valueSize))
	s.awaitCached(below("/list/"))
	sentBefore, began := 0, s.member()
	if s.Kind.Member() != proc.Core {
		sentBefore = s.Metric(sentMetric)
	}

	// Writes are small: what upstream sends of them is little beside one list.
	var done atomic.Bool
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 0; !done.Load(); i++ {
			if err := writeSomewhere(began, all, i); err != nil {
				s.Error(err)
				return
			}
		}
	})
	const readers, lists = 4, 5
	var reading sync.WaitGroup
	read := make([][]list, readers)
	for i := range readers {
		c := s.dial()
		reading.Go(func() {
			for range lists {
				l, err := c.readPages("/list/", i%2 == 0)
				if err != nil {
					s.Errorf("reader %d: %v", i, err)
					return
				}
				read[i] = append(read[i], l)
			}
		})
	}
	reading.Wait()
	done.Store(true)
	writing.Wait()
	if len(s.Proxies) > 0 && s.Kind.Member() != proc.Core {
		sent := s.Metric(sentMetric) - sentBefore
		if most := readers * lists * listed * valueSize / 10; sent > most {
			s.Errorf("upstream sent %d bytes for %d lists of %d", sent, readers*lists, listed*valueSize)
		}
	}
	revs := map[int64]bool{}
	for i, lists := range read {
		for _, l := range lists {
			revs[l.rev] = true
			now := direct.get(pinned(below("/list/"), l.rev))
			if err := sameAnswer(&pb.RangeResponse{Kvs: l.kvs, Count: now.Count}, now); err != nil {
				s.Errorf("reader %d: list at revision %d: %v", i, l.rev, err)
			}
		}
	}
	s.Logf("%d lists at %d revisions, while %d writes were made", readers*lists, len(revs), direct.revision()-1-listed/100)
}

// writeSomewhere changes the list: the number of its keys too.
func writeSomewhere(c *client, all []string, i int) error {
	key := all[(i*17)%len(all)] + "/small"
	ops := []*pb.RequestOp{targettest.PutOp(key, fmt.Sprint(i))}
	if i%3 == 2 {
		ops = []*pb.RequestOp{targettest.DeleteOp(key)}
	}
	_, err := c.kv.Txn(c.ctx, &pb.TxnRequest{Success: append(ops, targettest.PutOp(all[0]+"/newest", fmt.Sprint(i)))})
	return err
}

// readPages reads what is below prefix as Kubernetes does: the first page as it is now, the others at its revision.
func (c *client) readPages(prefix string, serial bool) (list, error) {
	r := below(prefix)
	r.Limit = pageSize
	l := list{}
	for {
		resp, err := c.read(r)
		if err != nil {
			return l, fmt.Errorf("page %v: %w", r, err)
		}
		l.kvs = append(l.kvs, resp.Kvs...)
		if l.rev == 0 {
			l.rev = resp.Header.Revision
		}
		if !resp.More {
			return l, nil
		}
		r = pinned(below(prefix), l.rev)
		r.Key = append(resp.Kvs[len(resp.Kvs)-1].Key, 0)
		r.Limit, r.Serializable = pageSize, serial
	}
}
