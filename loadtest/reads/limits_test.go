package reads

import (
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Ranges with more keys or bytes than the limits allow are refused, exactly from the first too many on, whether upstream
// is asked or memory. Pages, counts and streams are not.
func TestUnboundedReadsAreRefused(t *testing.T) {
	t.Parallel()
	for _, cache := range []string{"--cache-bytes=0", cacheAll} {
		for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
			t.Run(cache+"/"+string(kind), func(t *testing.T) {
				t.Parallel()
				limits(newSiteWith(t, kind, targettest.SiteOptions{NoProxies: true}), cache)
			})
		}
	}
}

func limits(s *site, cache string) {
	const listed = 50
	direct := s.member()
	direct.putAll(targettest.Keys("/list/", listed), strings.Repeat("x", 100))
	size := 0 // as --max-range-bytes counts
	for _, kv := range direct.get(below("/list/")).Kvs {
		size += proto.Size(kv)
	}
	for _, limit := range []string{fmt.Sprintf("--max-range-keys=%d", listed), fmt.Sprintf("--max-range-bytes=%d", size)} {
		s.ProxyArgs = []string{cache, limit}
		s.StartProxies(s.Cluster.Endpoints())
		if cache == cacheAll {
			s.awaitCached(single("/list/000000"))
		}
		c := s.dial()
		sameAsDirect := func(when string, requests ...*pb.RangeRequest) {
			s.Helper()
			for _, r := range requests {
				resp, err := c.read(r)
				if err == nil {
					err = sameAnswer(resp, direct.get(r))
				}
				if err != nil {
					s.Errorf("%s %s %s: %v: %v", cache, limit, when, r, err)
				}
			}
		}
		page, limited, count, descending := below("/list/"), below("/list/"), below("/list/"), below("/list/")
		page.Limit, limited.Limit, count.CountOnly = 5, listed*1000, true
		descending.SortOrder, descending.SortTarget = pb.RangeRequest_DESCEND, pb.RangeRequest_KEY
		unbounded := []*pb.RangeRequest{below("/list/"), limited, descending, fromKey("/list/")}
		for _, r := range unbounded[:len(unbounded):len(unbounded)] {
			unbounded = append(unbounded, serializable(r))
		}
		bounded := []*pb.RangeRequest{page, serializable(page), count, serializable(count), single("/list/z")}

		sameAsDirect("with as much as is allowed", append(unbounded, bounded...)...)
		direct.put("/list/z", "one too many")
		c.revision() // serializable reads are to know it
		sameAsDirect("with one too many", bounded...)
		for _, r := range unbounded {
			if _, err := c.read(r); status.Code(err) != codes.ResourceExhausted {
				s.Errorf("%s %s, with one too many: %v: %v", cache, limit, r, err)
			}
		}
		all, err := c.stream(below("/list/"))
		s.Must(err)
		if err := sameAnswer(all, direct.get(below("/list/"))); err != nil {
			s.Errorf("%s %s: a stream: %v", cache, limit, err)
		}
		direct.remove("/list/z", "")
		c.revision()
	}
}
