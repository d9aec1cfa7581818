package identities

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// watch is one that a client has asked for, and what it was given.
type watch struct {
	in     permission // range
	start  int64      // revision, 0 is from now on
	prevKV bool
	known  int64 // the newest revision that anybody knew when it was asked for

	sent, answered time.Duration // when it was asked for and answered
	refused        string        // with what reason; "" if it was created
	id             int64
	from           int64 // the first revision to come

	events     []received
	canceled   string // the reason, once it is
	canceledAt time.Duration
}

type received struct {
	*mvccpb.Event
	at time.Duration
}

// watchStream is one gRPC stream of watches, all of one identity.
type watchStream struct {
	client string
	who    *identity
	opened time.Duration
	closed time.Duration // by the client, or the server with err

	watches []*watch
	err     error
	hung    string // what did not come
}

func (s *watchStream) String() string {
	return fmt.Sprintf("a stream of %s as %v, open at %v to %v (%v)", s.client, s.who, s.opened, s.closed, s.err)
}

func (w *watch) String() string {
	return fmt.Sprintf("watch of %q to %q from %d, asked for at %v and answered at %v (%s)", w.in.key, w.in.end, w.start, w.sent, w.answered, w.refused)
}

// hangBound is how long after a write its event must be there. It is no promise; but a watch to which it never comes hangs.
const hangBound = 30 * time.Second

// watcher is a client that watches: a few ranges on a stream for a while, then others on another one.
type watcher struct {
	*client
	streams []*watchStream
}

func (w *watcher) live(ctx context.Context) {
	for ctx.Err() == nil {
		w.identify()
		s := &watchStream{client: w.name, who: w.who}
		w.streams = append(w.streams, s)
		w.run(ctx, s)
		if s.err != nil || len(s.watches) > 0 && s.watches[0].refused != "" && w.rng.IntN(3) == 0 {
			w.login()
		}
		pause(ctx, time.Duration(w.rng.IntN(100))*time.Millisecond)
	}
}

// open is a stream that a watcher has open.
type open struct {
	*watchStream
	of    *watcher
	grpc  pb.Watch_WatchClient
	comes chan *pb.WatchResponse // closed when the stream has ended; then ended has the error
	ended error
	left  context.CancelFunc

	patience time.Duration // with what has to come
}

func (w *watcher) open(s *watchStream) (*open, error) {
	ctx, cancel := context.WithCancel(w.as(s.who))
	s.opened = w.now()
	g, err := pb.NewWatchClient(w.conn).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	o := &open{watchStream: s, of: w, grpc: g, comes: make(chan *pb.WatchResponse), left: cancel, patience: hangBound}
	go func() {
		defer close(o.comes)
		for {
			r, err := g.Recv()
			if err != nil {
				o.ended = err
				return
			}
			select {
			case o.comes <- r:
			case <-ctx.Done():
				o.ended = ctx.Err()
				return
			}
		}
	}()
	return o, nil
}

// close ends the stream, if it has not ended, and waits for it.
func (o *open) close() {
	o.left()
	for range o.comes {
	}
}

// run opens a stream with watches, and closes it after a while; each watch must have been told by then of a write that was
// made before, unless it was cancelled.
func (w *watcher) run(ctx context.Context, s *watchStream) {
	o, err := w.open(s)
	if err != nil {
		s.closed, s.err = w.now(), err
		return
	}
	defer o.close()
	defer func() { s.closed = w.now() }()
	for range 1 + w.rng.IntN(3) {
		if !o.create() {
			return
		}
		if !o.receive(ctx, time.Duration(w.rng.IntN(200))*time.Millisecond) {
			return
		}
	}
	if !o.receive(ctx, w.lifetime()) {
		return
	}
	for _, one := range s.watches {
		if one.refused != "" || one.canceled != "" {
			continue
		}
		rev, err := w.put(one.in.key, w.value(one.in.key), 0)
		if err != nil {
			s.hung = err.Error()
			return
		}
		if !o.await(fmt.Sprintf("revision %d for %v", rev, one), func() bool { return one.canceled != "" || one.last() >= rev }) {
			return
		}
	}
}

// lifetime is of a stream: mostly short, so that there are many, but some outlive all that may be remembered.
func (w *watcher) lifetime() time.Duration {
	longest := 2 * time.Second
	if w.rng.IntN(4) == 0 {
		longest = 8 * time.Second
	}
	return time.Duration(w.rng.Int64N(int64(longest)))
}

// last is the revision of the newest event.
func (w *watch) last() int64 {
	if len(w.events) == 0 {
		return 0
	}
	return w.events[len(w.events)-1].Kv.ModRevision
}

// create asks for any watch and waits until it is created or refused. It tells whether the stream goes on.
func (o *open) create() bool {
	w := &watch{in: o.of.pickWatched(), prevKV: o.of.rng.IntN(2) == 0}
	if o.of.rng.IntN(3) == 0 {
		w.start = 1 + o.of.rng.Int64N(o.of.newest.Load())
	}
	return o.createOf(w)
}

// createOf is create of this one.
func (o *open) createOf(w *watch) bool {
	w.sent, w.known = o.of.now(), o.of.newest.Load()
	o.watches = append(o.watches, w)
	create := &pb.WatchCreateRequest{Key: []byte(w.in.key), RangeEnd: []byte(w.in.end), StartRevision: w.start, PrevKv: w.prevKV}
	// A stream that has ended says why at Recv.
	_ = o.grpc.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	return o.await(fmt.Sprintf("an answer to %v", w), func() bool { return w.answered > 0 })
}

// pickWatched is a range to watch: mostly one that the user may read.
func (w *watcher) pickWatched() permission {
	in := w.pickRange()
	for !slices.Contains(watched, in) {
		in = w.pickRange()
	}
	return in
}

// receive takes what comes for some time. It tells whether the stream goes on.
func (o *open) receive(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case r, ok := <-o.comes:
			if !o.take(r, ok) {
				return false
			}
		case <-t.C:
			return true
		case <-ctx.Done():
			return true
		}
	}
}

// await takes what comes until it was this. It tells whether the stream goes on.
func (o *open) await(what string, come func() bool) bool {
	t := time.NewTimer(o.patience)
	defer t.Stop()
	for !come() {
		select {
		case r, ok := <-o.comes:
			if !o.take(r, ok) {
				return false
			}
		case <-t.C:
			o.hung = what
			return false
		}
	}
	return true
}

func (o *open) take(r *pb.WatchResponse, ok bool) bool {
	at := o.of.now()
	if !ok {
		o.err = o.ended
		return false
	}
	var w *watch
	for _, one := range o.watches {
		if one.answered > 0 && one.refused == "" && one.id == r.WatchId || one.answered == 0 && r.Created {
			w = one
			break
		}
	}
	switch {
	case w == nil:
		o.hung = fmt.Sprintf("a watch for the response %v", r)
		return false
	case r.Created:
		w.answered, w.id, w.from = at, r.WatchId, w.start
		if w.start == 0 {
			w.from = r.Header.Revision + 1
		}
		if r.Canceled {
			w.refused = r.CancelReason
		}
	case r.Canceled:
		w.canceled, w.canceledAt = r.CancelReason, at
	default:
		for _, e := range r.Events {
			w.events = append(w.events, received{e, at})
		}
	}
	return true
}
