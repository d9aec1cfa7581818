package tenants

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// tracker keeps a usage current: it watches the namespace from now on, and then reads its keys once, of one revision that is not
// before the start of the watch. What the watch brings up to that revision has been read, and what it brings after that is
// applied to it. When the watch ends it begins again; meanwhile nothing is known.
type tracker struct {
	usage  *usage
	name   string // of the tenant
	prefix wire.Namespace
	hub    *coalesce.Hub
	up     Upstream
	log    *slog.Logger
}

const (
	callPatience  = 10 * time.Second
	retryAfter    = time.Second
	recountAfter  = 10 * time.Second       // a namespace that is too large
	progressAfter = 100 * time.Millisecond // if no event has told it by then

	pageBytes = 4 << 20 // about, of an answer
	firstPage = 16      // keys: nothing is known of their size
	maxPage   = 10_000
	growPage  = 8 // times as many keys as the page before has a page at most
)

var (
	errTooManyKeys  = errors.New("there are more keys than are counted")
	errOtherCluster = errors.New("upstream answers for another cluster")
	errBehindWatch  = errors.New("upstream answers from before the watch")
	errNoKeys       = errors.New("upstream says that there are more keys, and sends none")
	errStopped      = errors.New("told to stop")
)

// tracking is a tracker at work.
type tracking struct {
	usage *usage
	stop  context.CancelFunc
}

func newTracker(t *tenant, cfg *Config) *tracker {
	return &tracker{
		usage: t.usage, name: t.name, prefix: wire.Namespace(t.namespace), hub: cfg.Hub, up: cfg.Upstream,
		log: cfg.Logger.With("tenant", t.name, "namespace", t.namespace),
	}
}

// run counts until ctx ends.
func (k *tracker) run(ctx context.Context) {
	reported := current // that nothing is known, and so
	for {
		counted, err := k.follow(ctx)
		state, wait := stateAfter(err)
		k.usage.lose(state, err)
		if ctx.Err() != nil {
			return
		}
		if counted || state != reported {
			k.report(state, err)
		}
		reported = state
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// stateAfter is what is known when following has ended with err, and after how long to begin again.
func stateAfter(err error) (state knowledge, wait time.Duration) {
	if errors.Is(err, errTooManyKeys) {
		return tooLarge, recountAfter
	}
	switch status.Code(err) { // of what upstream has said
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return barred, retryAfter
	}
	return unknown, retryAfter
}

// report tells the log that growth is refused from now on.
func (k *tracker) report(state knowledge, err error) {
	if state == barred {
		k.log.Error("the quota of a namespace cannot be checked, and nothing that could grow it is let through: give the proxy a --user that may read the namespace", "error", err)
		return
	}
	k.log.Warn("the quota of a namespace cannot be checked, and nothing that could grow it is let through", "error", err)
}

// follow keeps the usage current for as long as possible, and returns why. It tells whether there was a count.
func (k *tracker) follow(ctx context.Context) (counted bool, err error) {
	// First, because a watch that is not permitted is only waited for in vain.
	if _, err := k.revision(ctx, k.prefix.End()); err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	f := &following{tracker: k, ended: make(chan struct{})}
	f.stream = k.hub.NewStream(f)
	defer f.stream.Close()
	defer f.end(errStopped) // what is delivered later is of no use
	if err := f.watch(ctx); err != nil {
		return false, fmt.Errorf("watch: %w", err)
	}
	began := time.Now()
	held, rev, err := k.count(ctx, f.since)
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	if !f.begin(held, rev, began) {
		return false, f.reason
	}
	s := k.usage.stat(k.name)
	k.log.Info("the quota of a namespace is checked", "keys", s.Keys, "bytes", s.Bytes, "revision", rev)
	return true, k.tend(ctx, f)
}

// tend ends reservations in time, until the watch ends.
func (k *tracker) tend(ctx context.Context, f *following) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for armed := true; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.ended:
			return f.reason
		case <-k.usage.wake:
			if !armed {
				armed = true
				timer.Reset(progressAfter)
			}
		case <-timer.C:
			d := k.usage.due(time.Now())
			if d.doubtful {
				k.date(ctx)
			}
			if d.passing > 0 {
				f.stream.Await(d.passing)
			}
			if armed = d.any; armed {
				timer.Reset(progressAfter)
			}
		}
	}
}

// date finds out which revision upstream has reached. If it cannot be told, it is asked again.
func (k *tracker) date(ctx context.Context) {
	now := time.Now()
	if rev, err := k.revision(ctx, nil); err == nil {
		k.usage.date(now, rev)
	}
}

// revision is one that upstream has reached by now, which is told to who may read from the namespace's first key to end.
func (k *tracker) revision(ctx context.Context, end []byte) (int64, error) {
	raw, err := k.read(ctx, &wire.RangeRequest{Key: []byte(k.prefix), RangeEnd: end, CountOnly: true})
	if err != nil {
		return 0, err
	}
	h, err := wire.UnmarshalHeader(raw)
	return h.Revision, err
}

// count reads the sizes of all keys, as of a revision that is not before since.
func (k *tracker) count(ctx context.Context, since int64) (held census, rev int64, err error) {
	held.sizes = map[keyHash]uint32{}
	next := &wire.RangeRequest{Key: []byte(k.prefix), RangeEnd: k.prefix.End(), Limit: firstPage}
	var cluster uint64
	for bytes := int64(0); ; {
		p, err := k.page(ctx, next, &held)
		switch {
		case err != nil:
			return census{}, 0, err
		case rev == 0 && p.Header.Revision < since:
			return census{}, 0, errBehindWatch
		case rev != 0 && p.Header.ClusterID != cluster:
			return census{}, 0, errOtherCluster
		case !k.usage.fits(p.Count):
			return census{}, 0, errTooManyKeys
		case rev == 0:
			rev, cluster = p.Header.Revision, p.Header.ClusterID
		}
		if !p.More {
			return held, rev, nil
		}
		if p.last == nil {
			return census{}, 0, errNoKeys
		}
		bytes += p.bytes
		next.Key, next.Revision = append(p.last, 0), rev
		next.Limit = max(1, min(pageBytes*held.sum.keys/bytes, growPage*next.Limit, maxPage))
	}
}

// page is an answer to a part of a count.
type page struct {
	wire.RangeResponse
	bytes int64
	last  []byte // key; nil if there is none
}

// page adds what one answer has to held. Every page is read linearizably, from whatever member: one that is behind could not
// know the revision.
func (k *tracker) page(ctx context.Context, r *wire.RangeRequest, held *census) (p page, err error) {
	raw, err := k.read(ctx, r)
	if err != nil {
		return page{}, err
	}
	p.bytes = int64(len(raw))
	err = p.Unmarshal(raw, func(b []byte) error {
		key, size, err := k.sizeOf(b)
		if err == nil {
			held.set(hashOf(key), size)
			p.last = append(append(p.last[:0], k.prefix...), key...)
		}
		return err
	})
	return p, err
}

func (k *tracker) read(ctx context.Context, r *wire.RangeRequest) (wire.Raw, error) {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	return k.up.Call(ctx, pb.KV_Range_FullMethodName, wire.AppendRangeRequest(nil, r))
}

// sizeOf returns the key of an encoded KeyValue without the namespace, and its size.
func (k *tracker) sizeOf(b []byte) (key []byte, size uint32, err error) {
	var kv wire.KeyValue
	if err := kv.Unmarshal(b); err != nil {
		return nil, 0, err
	}
	key = kv.Key[min(len(kv.Key), len(k.prefix)):]
	return key, max(1, uint32(len(key)+len(kv.Value))), nil
}
