package feed

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// identity is what upstream has shown to be. Only linearizable reads count for cluster and term: they cannot go back.
type identity struct {
	cluster  uint64
	revision int64
	term     uint64
}

const (
	// shareTimeout is how long a client's watch waits to be told whether it can be shared.
	shareTimeout = 7 * time.Second
	// probeInterval is how often upstream is asked whether it has authentication on, and has compacted. Both are to be
	// known within a second.
	probeInterval = 500 * time.Millisecond
	// quorumInterval is how often the member is asked for a linearizable read.
	quorumInterval = time.Second
	// retryInterval is between two attempts to get a session.
	retryInterval = 200 * time.Millisecond
	// termPatience is how often a member is asked again whose term is below one that was seen: a member that stood for
	// election in vain may have shown a term that the cluster reaches only later.
	termPatience = 10
)

// connect keeps a session for as long as the Set lives.
func (s *Set) connect() {
	for s.ctx.Err() == nil {
		m, err := s.upstream.Member(s.ctx)
		if err == nil {
			err = s.serve(m)
			s.log.Debug("feeds lost their member", "endpoint", m.String(), "error", err)
		}
		pause := retryInterval
		if s.isUnshared() {
			pause = probeInterval // it is the probe that is repeated
		}
		_ = sleep(s.ctx, pause)
	}
}

// serve runs a session on a member, if it can, for as long as it is the one to be used.
func (s *Set) serve(m Member) error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.tasks.start(func() {
		select {
		case <-m.Lost():
			cancel()
		case <-ctx.Done():
		}
	})
	if err := s.probe(ctx, m); err != nil {
		return err
	}
	if err := s.checkVersion(ctx, m); err != nil {
		return err
	}
	s.share()
	if err := s.verify(ctx, m); err != nil {
		if ctx.Err() == nil && !errors.Is(err, errReplaced) {
			s.preferOther(ctx, m)
		}
		return err
	}
	return s.serveSession(ctx, m)
}

// probeAlways asks what upstream does not tell by itself: that it has authentication on, that it has compacted.
func (s *Set) probeAlways(ctx context.Context, x *session) {
	for sleep(ctx, probeInterval) == nil {
		if err := s.probe(ctx, x.member); errors.Is(err, errAuthOn) {
			x.cancel(err)
			return
		}
	}
}

// seekQuorum leaves a member that is cut off from the others. It also ends the session when what upstream shows is older
// than before: it may have been replaced behind a proxy, whose connection stays.
func (s *Set) seekQuorum(ctx context.Context, x *session) {
	for sleep(ctx, quorumInterval) == nil {
		seen := s.identity()
		h, err := s.linearizable(ctx, x.member)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.preferOther(ctx, x.member)
		case h.ClusterID != seen.cluster || h.Revision < seen.revision || h.RaftTerm < seen.term:
			x.cancel(errSuspect)
		}
	}
}

// errSuspect ends a session so that the next one looks at what upstream is.
var errSuspect = errors.New("upstream may not be what it was")

// identity is what upstream has shown to be until now.
func (s *Set) identity() identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	for f := range s.feeds {
		if f.isOpen() {
			seen.revision = max(seen.revision, f.out.Revision())
		}
	}
	return seen
}

// errAuthOn says that requests without identity are refused, so that nothing may be shared.
var errAuthOn = errors.New("authentication is on upstream")

// probe asks whether upstream has authentication on, and ends all sharing if so. In the same request it learns of a
// compaction.
func (s *Set) probe(ctx context.Context, m Member) error {
	oldest, asked := s.oldestKept(), time.Now()
	_, err := s.read(ctx, m, &wire.RangeRequest{Key: anyKey, Serializable: true, CountOnly: true, Revision: oldest})
	switch {
	case err == nil:
		s.confirm(asked)
		return nil
	case isIdentityText(status.Convert(err).Message()):
		s.unshare(errAuthOn)
		return errAuthOn
	case hasText(err, rpctypes.ErrGRPCCompacted):
		s.confirm(asked)
		s.lookUpCompaction(m, oldest)
		return nil
	case hasText(err, rpctypes.ErrGRPCFutureRev): // the member lags behind
		s.confirm(asked)
		return nil
	}
	return fmt.Errorf("probe: %w", err)
}

// trust is for how long after an answer no other is needed. A watch that comes later waits for the next one, or it
// could be given what has been forbidden meanwhile and is still in memory.
const trust = time.Second

// isConfirmed is called with s.mu held.
func (s *Set) isConfirmed() bool { return time.Since(s.confirmed) <= trust }

// confirm records that a request without an identity, sent at `asked`, was allowed.
func (s *Set) confirm(asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.isConfirmed()
	if asked.After(s.confirmed) {
		s.confirmed = asked
	}
	if !was && s.isConfirmed() {
		s.tellChange()
	}
}

// hasText tells whether err came from upstream as that error of etcd's.
func hasText(err, etcd error) bool {
	return err != nil && status.Convert(err).Message() == status.Convert(etcd).Message()
}

// anyKey is read when only the header matters.
var anyKey = []byte{0}

// read does a Range and returns the header of its answer.
func (s *Set) read(ctx context.Context, m Member, r *wire.RangeRequest) (wire.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := m.Call(ctx, pb.KV_Range_FullMethodName, wire.AppendRangeRequest(nil, r))
	if err != nil {
		return wire.Header{}, err
	}
	return wire.UnmarshalHeader(resp)
}

func (s *Set) linearizable(ctx context.Context, m Member) (wire.Header, error) {
	return s.read(ctx, m, &wire.RangeRequest{Key: anyKey, CountOnly: true})
}

// askRevision is one request of s.now: a serializable read on the member that the feeds are on. Another member
// may be ahead of it, and the feeds would be waited for. When it fails, it is asked again after a while.
func (s *Set) askRevision(ctx context.Context) (int64, error) {
	s.mu.Lock()
	x, changed := s.session, s.changed
	s.mu.Unlock()
	if x == nil {
		select {
		case <-changed:
		case <-ctx.Done():
		}
		return 0, errNoSession
	}
	seen, asked := s.identity(), time.Now()
	h, err := s.read(ctx, x.member, &wire.RangeRequest{Key: anyKey, Serializable: true, CountOnly: true})
	switch {
	case err != nil && isIdentityText(status.Convert(err).Message()):
		s.unshare(errAuthOn)
		x.cancel(errAuthOn)
		return 0, err
	case err != nil:
		return 0, errors.Join(err, sleep(ctx, retryInterval))
	case h.ClusterID != seen.cluster || h.Revision < seen.revision:
		x.cancel(errSuspect)
		return 0, errors.Join(errSuspect, sleep(ctx, retryInterval))
	}
	s.confirm(asked)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != x { // it may no longer be the same cluster
		return 0, errNoSession
	}
	s.sawHeader(x, h)
	return h.Revision, nil
}

var errNoSession = errors.New("no session upstream")

// oldestKept is the oldest revision from which on a watch would be served without asking upstream, or 0 if there is
// none before the newest.
func (s *Set) oldestKept() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := int64(0)
	for f := range s.feeds {
		if f.isOpen() {
			if from := f.out.Oldest(); from <= f.out.Revision() && (oldest == 0 || from < oldest) {
				oldest = from
			}
		}
	}
	if oldest > 0 {
		oldest = max(oldest, s.compacted)
	}
	return oldest
}

// lookUpCompaction has the compact revision found out, beside the probes.
func (s *Set) lookUpCompaction(m Member, rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lookingUp {
		s.lookingUp = s.tasks.start(func() {
			err := s.findCompaction(s.ctx, m, rev)
			s.log.Debug("looked up the compact revision", "error", err)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.lookingUp = false
		})
	}
}

// findCompaction learns the compact revision, which is above rev: a watch from there is cancelled with it.
func (s *Set) findCompaction(ctx context.Context, m Member, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := m.Watch(ctx, false)
	if err != nil {
		return fmt.Errorf("ask for the compact revision: %w", err)
	}
	if err := stream.Send(wire.AppendWatchCreate(nil, wire.WatchCreate{Key: anyKey, StartRevision: rev})); err != nil {
		return fmt.Errorf("ask for the compact revision: %w", err)
	}
	for {
		raw, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("ask for the compact revision: %w", err)
		}
		var r wire.WatchResponse
		if err := r.Unmarshal(raw); err != nil {
			return err
		}
		switch {
		case r.CompactRevision > 0 && r.CancelReason == "":
			s.Compacted(r.CompactRevision)
			return nil
		case r.Canceled:
			return &canceledError{r.CancelReason}
		}
	}
}

// Compacted tells that upstream has compacted revisions before rev. The Set finds out by itself, but only within a second.
func (s *Set) Compacted(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sawCompaction(s.session, rev)
}

// sawCompaction takes what a session has learnt, if it is the current one. s.mu is held.
func (s *Set) sawCompaction(x *session, rev int64) {
	if x == nil || s.session != x {
		return
	}
	s.compacted = max(s.compacted, rev)
	s.hub.Compacted(rev)
	x.wantProgress() // quiet feeds have to get past it, or could not go on after a lost session
}

// isIdentityText tells whether upstream refused a request for having no identity, or none that is allowed to do what
// is asked.
func isIdentityText(text string) bool {
	for _, err := range []error{
		rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision,
	} {
		if etcd := status.Convert(err).Message(); text == etcd || text == err.Error() {
			return true
		}
	}
	return false
}

// checkVersion refuses members whose progress notifications cannot be relied on: before etcd 3.5.8 they could overtake
// events, and before 3.5.13 they could be missing.
func (s *Set) checkVersion(ctx context.Context, m Member) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	raw, err := m.Call(call, pb.Maintenance_Status_FullMethodName, nil)
	if status.Code(err) == codes.Unimplemented {
		s.unshare(errors.New("upstream does not tell its version"))
		return err
	}
	if err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	var r pb.StatusResponse
	if err := proto.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("decode status: %w", err)
	}
	if isTooOld(r.Version) {
		err := fmt.Errorf("etcd %s is older than 3.5.13", r.Version)
		s.unshare(err)
		return err
	}
	return nil
}

func isTooOld(version string) bool {
	version, _, _ = strings.Cut(version, "-")
	version, _, _ = strings.Cut(version, "+")
	parts := strings.Split(version, ".")
	if len(parts) != 3 {
		return true
	}
	oldest := [3]int{3, 5, 13}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < oldest[i] {
			return true
		}
		if n > oldest[i] {
			return false
		}
	}
	return false
}

// errReplaced says that upstream is not what it was: another cluster, or this one restored from a backup.
var errReplaced = errors.New("weir: the cluster upstream has been replaced or restored from a backup")

// replacedAt is errReplaced for watchers: they have to read everything again, as after a compaction, and that is what
// they are told. A reason alone does not reach the users of client/v3, whose watch just ends.
func replacedAt(rev int64) error {
	return &coalesce.CompactedError{CompactRevision: rev, Reason: errReplaced.Error()}
}

// verify makes sure that a member belongs to the cluster that the feeds are of, and that nothing which was seen has
// been undone. A member that only lags behind cannot be mistaken for that, since a linearizable read makes it catch up.
func (s *Set) verify(ctx context.Context, m Member) error {
	for try := 0; ; try++ {
		h, err := s.linearizable(ctx, m)
		if err != nil {
			return fmt.Errorf("linearizable read: %w", err)
		}
		var what string
		switch seen := s.identity(); {
		case seen.cluster != 0 && h.ClusterID != seen.cluster:
			what = fmt.Sprintf("cluster id is %x and was %x", h.ClusterID, seen.cluster)
		case h.Revision < seen.revision:
			what = fmt.Sprintf("revision is %d and has been %d", h.Revision, seen.revision)
		case h.RaftTerm < seen.term && try < termPatience:
			if err := sleep(ctx, retryInterval); err != nil {
				return err
			}
			continue
		case h.RaftTerm < seen.term:
			what = fmt.Sprintf("raft term is %d and has been %d", h.RaftTerm, seen.term)
		default:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.seen = identity{cluster: h.ClusterID, revision: max(seen.revision, h.Revision), term: h.RaftTerm}
			s.header.Store(&h)
			return nil
		}
		s.log.Error("the cluster upstream has been replaced or restored from a backup; all watches are cancelled",
			"because", what, "watches", s.watchers())
		s.reset(replacedAt(h.Revision))
		return errReplaced
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchers counts those of all feeds.
func (s *Set) watchers() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.feeds {
		if f.isOpen() {
			n += f.out.Stats().Watchers
		}
	}
	return n
}

// sawHeader takes the header of a response of the current session. s.mu is held.
func (s *Set) sawHeader(x *session, h wire.Header) {
	if s.session != x {
		return
	}
	s.seen.revision = max(s.seen.revision, h.Revision)
	s.header.Store(&h)
}

// preferOther leaves a member that does not answer linearizable reads for one that does, if there is one. Watches
// go on at a member that is cut off, but nothing happens there.
func (s *Set) preferOther(ctx context.Context, m Member) {
	for _, other := range s.upstream.Others(m) {
		if _, err := s.linearizable(ctx, other); err == nil {
			s.log.Warn("upstream member does not answer linearizable reads, another does", "endpoint", m.String(), "other", other.String())
			s.upstream.Prefer(other)
			return
		}
	}
}

// share lets watches be served from feeds.
func (s *Set) share() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sharing != shared {
		s.sharing = shared
		s.tellChange()
		s.log.Info("watches are shared")
	}
}

func (s *Set) isUnshared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sharing == unshared
}

// unshare ends everything that is shared. Watches are forwarded from now on.
func (s *Set) unshare(why error) {
	s.mu.Lock()
	was := s.sharing
	s.sharing = unshared // those who wait are told only when their streams have been ended: they are not refused
	s.mu.Unlock()
	if was == unshared {
		return
	}
	s.log.Warn("watches are not shared, and those that were are ended", "reason", why, "watches", s.watchers())
	s.hub.End(errNotShared)
	s.reset(errNotShared)
}

// reset forgets all feeds. Their watchers are cancelled with the reason.
func (s *Set) reset(why error) {
	s.mu.Lock()
	for f := range s.feeds {
		if !f.isOpen() {
			f.err = why
			close(f.opened)
		}
	}
	fixed := s.catalog.fixed
	s.catalog = newCatalog()
	clear(s.feeds)
	clear(s.retired)
	if s.session != nil { // it ends
		clear(s.session.feeds)
		s.session = nil
	}
	s.seen, s.compacted = identity{}, 0
	for _, f := range fixed {
		again := s.newFeed(f.span)
		again.fixed = true
		s.catalog.fixed = append(s.catalog.fixed, again)
	}
	s.tellChange()
	s.mu.Unlock()
	s.now.reset()
	s.cursors.closeAll()
	s.hub.Reset(why)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellChange() // again: feeds are closed now
}
