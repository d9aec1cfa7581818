package suite

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/client"
	"weir/loadtest/load"
)

// watched is a prefix with so many watchers.
type watched struct {
	prefix   string
	watchers int
}

// observers watch what the clients of a mixed load write. Each write is told to every watcher of its prefix exactly once, in the order
// of revisions: how many events there must be is known when all writes are acknowledged.
type observers struct {
	group   *client.Group
	watched []watched
	want    atomic.Int64  // events of the writes so far
	came    atomic.Int64  // events
	created atomic.Int64  // watches
	changed chan struct{} // has room for one; is sent to when something came
}

// observer is one connection. Its fields belong to the connection's reader.
type observer struct {
	all  *observers
	last map[int64]int64 // revision of each watch's last event
}

// observe creates the watches of the prefixes, on so many connections with one stream each, and returns when all are there.
func observe(ctx context.Context, s *System, conns int, prefixes []watched) (*observers, error) {
	o := &observers{group: client.NewGroup(ctx), watched: prefixes, changed: make(chan struct{}, 1)}
	err := o.watch(s, conns)
	if err != nil {
		return nil, errors.Join(err, o.group.Close())
	}
	return o, nil
}

func (o *observers) watch(s *System, n int) error {
	conns, err := o.group.Connect(n, s.Endpoint, s.Client, func(int) client.Handler { return &observer{all: o, last: map[int64]int64{}} })
	if err != nil {
		return err
	}
	streams := make([]uint32, n)
	for i, c := range conns {
		if streams[i], err = c.Open(client.Watch); err != nil {
			return err
		}
	}
	next := 0
	for _, w := range o.watched {
		request, err := encode(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte(w.prefix), RangeEnd: load.PrefixEnd(w.prefix)}}})
		if err != nil {
			return err
		}
		for range w.watchers {
			if err := conns[next%n].Send(streams[next%n], request); err != nil {
				return fmt.Errorf("create a watch: %w", err)
			}
			next++
		}
	}
	return o.wait(func() string {
		if missing := int64(next) - o.created.Load(); missing > 0 {
			return fmt.Sprintf("%d of %d watches", missing, next)
		}
		return ""
	})
}

// wrote notes an acknowledged write below one of the prefixes.
func (o *observers) wrote(at int) {
	o.want.Add(int64(o.watched[at].watchers))
}

// await waits for all events of the writes that were noted.
func (o *observers) await() error {
	if err := o.wait(func() string {
		if missing := o.want.Load() - o.came.Load(); missing > 0 {
			return fmt.Sprintf("%d of %d events", missing, o.want.Load())
		}
		return ""
	}); err != nil {
		return err
	}
	if more := o.came.Load() - o.want.Load(); more > 0 {
		return fmt.Errorf("%d more events came than there were", more)
	}
	return nil
}

// wait waits until missing says that nothing is.
func (o *observers) wait(missing func() string) error {
	timeout := time.NewTimer(load.Patience)
	defer timeout.Stop()
	for missing() != "" {
		select {
		case <-o.changed:
		case <-o.group.Failed().Done():
			return context.Cause(o.group.Failed())
		case <-timeout.C:
			return fmt.Errorf("%s are missing after %v", missing(), load.Patience)
		}
	}
	return context.Cause(o.group.Failed())
}

// Message is given a WatchResponse.
func (o *observer) Message(_ uint32, m []byte) error {
	var r pb.WatchResponse
	if err := proto.Unmarshal(m, &r); err != nil {
		return fmt.Errorf("decode an answer: %w", err)
	}
	if r.Canceled {
		return fmt.Errorf("a watch was canceled: %q", r.CancelReason)
	}
	if r.Created {
		o.all.created.Add(1)
	}
	for _, e := range r.Events {
		if at := e.Kv.ModRevision; at <= o.last[r.WatchId] { // each write is of one key
			return fmt.Errorf("an event of revision %d came after one of %d", at, o.last[r.WatchId])
		}
		o.last[r.WatchId] = e.Kv.ModRevision
	}
	o.all.came.Add(int64(len(r.Events)))
	select {
	case o.all.changed <- struct{}{}:
	default:
	}
	return nil
}

// End is an error: watches are to go on.
func (o *observer) End(_ uint32, err error) error {
	return errors.Join(errors.New("a stream of watches ended"), err)
}
