package feed

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// quorumInterval is how often the member is asked for a linearizable read.
	quorumInterval = time.Second
	// retryInterval is between two attempts to get a session.
	retryInterval = 200 * time.Millisecond
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
	ctx, cancel := s.tasks.untilLost(s.ctx, m)
	defer cancel()
	regime, err := s.probe(ctx, m)
	if err != nil {
		return err
	}
	if err := s.checkVersion(ctx, m); err != nil {
		return err
	}
	s.share(regime)
	if err := s.verify(ctx, m); err != nil {
		if ctx.Err() == nil && !errors.Is(err, errReplaced) {
			s.preferOther(ctx, m)
		}
		return err
	}
	// The member has caught up only now, and may have learned who may read.
	switch again, err := s.probe(ctx, m); {
	case err != nil:
		return err
	case again != regime:
		s.unshare(errRegime)
		return errRegime
	}
	return s.serveSession(ctx, m, regime)
}

// seekQuorum leaves a member that is cut off from the others. It also ends the session when what upstream shows is older
// than before: it may have been replaced behind a proxy, whose connection stays.
func (s *Set) seekQuorum(ctx context.Context, x *session) {
	hangs, refuses := false, false
	for sleep(ctx, quorumInterval) == nil {
		seen, asked := s.identity(), time.Now()
		h, err := s.linearizable(ctx, x.member)
		switch {
		case ctx.Err() != nil:
		case isRefusal(err): // as would every member: it does not hang, and another is no better
			if !refuses {
				s.log.Warn("upstream wants a user: authentication is on there, so give the proxy a --user that may read all keys that its clients use",
					"endpoint", x.member.String(), "error", err)
			}
			refuses = true
		case err != nil:
			if !hangs {
				s.log.Warn("upstream member does not answer linearizable reads", "endpoint", x.member.String(), "error", err)
			}
			hangs = true
			s.preferOther(ctx, x.member)
		case h.ClusterID != seen.cluster || h.Revision < seen.revision || h.RaftTerm < seen.term:
			x.cancel(errSuspect)
		default:
			if hangs {
				s.log.Info("upstream member answers linearizable reads again", "endpoint", x.member.String())
			}
			hangs, refuses = false, false
			s.mu.Lock()
			if s.session == x {
				s.sawHeader(x, h)
				s.prove(asked, h.Revision)
			}
			s.mu.Unlock()
		}
	}
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
	if isOlder(r.Version, [3]int{3, 5, 13}) {
		err := fmt.Errorf("etcd %s is older than 3.5.13", r.Version)
		s.unshare(err)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before37 = isOlder(r.Version, [3]int{3, 7, 0})
	s.tellStanding()
	return nil
}

// isOlder tells whether a version is before another; one that cannot be read is.
func isOlder(version string, than [3]int) bool {
	version, _, _ = strings.Cut(version, "-")
	version, _, _ = strings.Cut(version, "+")
	parts := strings.Split(version, ".")
	if len(parts) != 3 {
		return true
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < than[i] {
			return true
		}
		if n > than[i] {
			return false
		}
	}
	return false
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
