package reads

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// What is kept in memory for reads stays below --cache-bytes, however much more is read again and again; nor does the
// proxy grow by anything else.
func TestCacheBytesIsHeld(t *testing.T) {
	t.Parallel()
	const cacheBytes, prefixes, each, valueSize = 4 << 20, 32, 512 << 10, 4 << 10
	s := newSite(t, target.ProxyEtcd37, fmt.Sprintf("--cache-bytes=%d", cacheBytes), "--watch-history-bytes=0", "--enable-pprof")
	direct, c := s.member(), s.dial()
	idle, highest := s.Heap(), 0
	for i := range prefixes {
		direct.putAll(targettest.Keys(fmt.Sprintf("/%02d/", i), each/valueSize), strings.Repeat("x", valueSize))
	}
	for round := range 2 {
		for i := range prefixes {
			prefix := fmt.Sprintf("/%02d/", i)
			for range 12 {
				targettest.Want(s, "pairs", len(c.get(serializable(below(prefix))).Kvs), each/valueSize)
			}
			// What changes while it is kept has a history, which is kept too as long as there is room.
			direct.put(targettest.Keys(prefix, 1)[0], fmt.Sprint(round))
			highest = max(highest, s.Heap()-idle)
		}
	}
	s.Logf("%d KiB more on the heap than at first, %d reads answered from memory", highest>>10, s.hits())
	// Connections and buffers are a part of what is there more than at first.
	if most := 2 * cacheBytes; highest > most {
		s.Errorf("%d bytes more on the heap than at first, with --cache-bytes=%d", highest, cacheBytes)
	}
	targettest.Want(s, "anything was kept", s.hits() > 0, true)
}

// Reads that are all different leave nothing behind: neither their results, nor what is counted of them.
func TestDistinctReadsLeaveNothingInMemory(t *testing.T) {
	t.Parallel()
	const cacheBytes, valueSize, clients = 4 << 20, 4 << 10, 16
	s := newSite(t, target.ProxyEtcd37, "--cache-prefix=/there/", fmt.Sprintf("--cache-bytes=%d", cacheBytes), "--enable-pprof")
	s.member().putAll(targettest.Keys("/there/", 1000), strings.Repeat("x", 100))
	s.member().putAll(targettest.Keys("/too much/", 2*cacheBytes/valueSize), strings.Repeat("x", valueSize)) // or all would be in memory
	s.awaitCached(below("/there/"))
	warm := *distinct / 5
	readDistinct(s, clients, 0, warm)
	before := s.Heap()
	m := watchMemory(s.Proxies[0])
	readDistinct(s, clients, warm, *distinct)
	grown, err := m.stop()
	s.Must(err)
	after := s.Heap()
	s.Logf("%d distinct reads, %d of them answered from memory: the heap went from %d KiB to %d KiB, and the process grew by %d KiB at most",
		*distinct, s.hits(), before>>10, after>>10, grown>>10)
	if after-before > cacheBytes || grown > mayGrow {
		s.Errorf("after the first %d reads the heap grew by %d bytes, and the process by %d", warm, after-before, grown)
	}
}

// readDistinct sends the reads from `from` to `to`, of which no two are the same: gets, lists, and pages at revisions.
func readDistinct(s *site, clients, from, to int) {
	s.Helper()
	rev := s.member().revision()
	var reading sync.WaitGroup
	for n := range clients {
		c := s.dial()
		reading.Go(func() {
			for i := from + n; i < to; i += clients {
				name := fmt.Sprintf("/%x/%d/", i%4096, i)
				r := []*pb.RangeRequest{ // one in four is not in memory
					single(name), below("/there/"), pinned(below("/there/"), rev), below("/there/"),
					below(name), below("/there/"), pinned(below("/there/"), rev), below("/there/"),
				}[i%8]
				r.Limit, r.Serializable = int64(1+i%3), i%16 < 8
				if i%4 > 0 {
					r.Key = fmt.Appendf(nil, "/there/%06d/%d", i%1000, i)
				}
				if _, err := c.read(r); err != nil {
					s.Errorf("%v: %v", r, err)
					return
				}
			}
		})
	}
	reading.Wait()
}
