package reads

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// leaveBehind pauses the last member, and has the others forget what they were about to tell it. It will have nothing of
// what is written from now on until it is resumed and meets one of them.
func (s *site) leaveBehind() (behind *target.Member, others []*target.Member) {
	s.Helper()
	n := len(s.Cluster.Members) - 1
	behind, others = s.Cluster.Members[n], s.Cluster.Members[:n]
	s.Must(behind.Pause())
	for _, m := range others { // the connections to the member that is paused may already bring it what comes now
		s.Must(m.Kill())
		s.Must(m.Restart())
	}
	for _, m := range others {
		s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
	}
	return behind, others
}

// A RangeStream states its revision only with its last part, when it is too late to ask again. One that is forwarded to a
// member that has been away takes no connection back to what it has been told already: it fails.
func TestLaggingMemberDoesNotTakeARangeStreamBack(t *testing.T) {
	t.Parallel()
	streamWhileLagging(newSiteWith(t, target.ProxyEtcd37, targettest.SiteOptions{
		Members: 3, ProxyArgs: []string{"--cache-prefix=/hot/"}, NoProxies: true,
	}))
}

func streamWhileLagging(s *site) {
	s.member().put("/a/1", "old")
	s.dialTo(s.Cluster.Members[2].Addr, "the member that is behind").get(single("/a/1"))
	behind, others := s.leaveBehind()
	s.StartProxies(s.Cluster.Endpoints())
	s.awaitLoaded(s.Front())
	c := s.dial()
	written := c.put("/a/1", "new")
	c.get(single("/hot/1"))                            // from memory, for which the proxy has looked what the newest revision is
	ways := []string{"", "weir-uncached", "hasleader"} // metadata
	for _, way := range ways {
		s.Must(c.streamSince(written, way))
	}
	for _, m := range others {
		s.Must(m.Kill())
	}
	s.Must(behind.Resume())

	// They go on until it is certain that the member that is behind is asked, and once more.
	var met atomic.Bool
	var reading sync.WaitGroup
	for _, way := range ways {
		reading.Go(func() {
			last := false
			repeat(func() bool { return !last }, func() {
				last = met.Load()
				if err := c.streamSince(written, way); errors.Is(err, errBack) {
					s.Errorf("serializable RangeStream with metadata %q: %v", way, err)
					last = true
				}
			})
		})
	}
	s.Eventually(backWithin, "an old answer for who has not been told of the new one", func() error {
		r, err := s.dial().read(serializable(single("/a/1")))
		if err == nil && string(r.Kvs[0].Value) != "old" {
			err = fmt.Errorf("it answers %s", pairs(r))
		}
		return err
	})
	met.Store(true)
	reading.Wait()
	for _, m := range others {
		s.Must(m.Restart())
	}
	for _, way := range ways {
		s.Eventually(2*backWithin, "an answer when all are back", func() error { return c.streamSince(written, way) })
	}
}

// errBack says that a connection was taken back.
var errBack = errors.New("an answer is older than what the connection was told")

// streamSince sends a serializable RangeStream of what is below /a/, with some metadata if it is not "". Its answer is to
// be of revision least or later in all its parts. It may be called concurrently.
func (c *client) streamSince(least int64, with string) error {
	ctx, cancel := context.WithTimeout(c.ctx, 2*time.Second)
	defer cancel()
	if with != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, with, "true")
	}
	stream, err := c.kv.RangeStream(ctx, serializable(below("/a/")))
	if err != nil {
		return err
	}
	var newest int64 // not every part states one
	for {
		part, err := stream.Recv()
		rev := part.GetRangeResponse().GetHeader().GetRevision()
		ended := errors.Is(err, io.EOF)
		switch {
		case err != nil && !ended:
			return err
		case rev > 0 && rev < least, ended && newest < least:
			return fmt.Errorf("%w: it is of revision %d, after %d", errBack, max(rev, newest), least)
		case ended:
			return nil
		}
		newest = max(newest, rev)
	}
}
