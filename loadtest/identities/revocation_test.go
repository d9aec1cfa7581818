package identities

import (
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A right is taken away. Reads end within a second, everywhere. Open watches end where a core or a proxy with the role root
// knows of it, and elsewhere go on as at etcd.
func TestRevocationEndsReadsAndWatches(t *testing.T) {
	for _, p := range []place{
		{kind: target.Etcd37}, {kind: target.Core},
		{kind: target.ProxyEtcd37}, {kind: target.ProxyEtcd37, own: asReader}, {kind: target.ProxyEtcd37, own: asRoot},
		{kind: target.ProxyEtcd37, own: asRoot, signed: true},
		{kind: target.ProxyCore}, {kind: target.ProxyCore, own: asRoot}, {kind: target.ProxyProxyEtcd37, own: asRoot},
	} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			var memberArgs []string
			if p.signed {
				memberArgs = append(memberArgs, signedTokens(t))
			}
			s := newScene(t, p, memberArgs...)
			// Whose the second one's token is, no proxy has been told, unless it says so itself.
			known, unknown := s.watch(s.Endpoint()), s.watch(s.Cluster.Members[0].Addr)
			s.wantServes(s.client())
			s.root.revoke(aliceRole, aliceMay)
			s.wantRefused(known.who.token, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCAuthOldRevision)
			if !promised(p.kind, p.own).endsAtRevoke {
				for _, l := range []*open{known, unknown} {
					if !s.goOn(l) {
						s.Errorf("a watch has ended: %v, %v, %s", l.watches, l.err, l.hung)
					}
				}
				return
			}
			s.wantDenied(known)
			if p.kind.Proxies() == 0 || p.own == asNobody || p.signed {
				s.wantDenied(unknown)
			} else if s.end(unknown) || !isUnavailable(unknown.err) {
				s.Errorf("watches of who is not known ended otherwise than for being asked for again: %v, %v", unknown.watches, unknown.err)
			}
			s.wantRight(known)
			s.wantRight(unknown)
		})
	}
}

// wantRefused fails the test if a read is still answered later than it may be, or is refused with another error.
func (s *scene) wantRefused(token string, errs ...error) {
	s.Helper()
	kv, revoked := pb.NewKVClient(targettest.Dial(s, s.Endpoint())), s.now()
	for {
		sent := s.now()
		_, err := kv.Range(withToken(s.Ctx, token), &pb.RangeRequest{Key: []byte("/a/1"), Serializable: true})
		if isAnyOf(err, errs...) {
			return
		}
		if err != nil || sent > revoked+longPast {
			s.Errorf("a read %v after it was forbidden: %v", sent-revoked, err)
			return
		}
	}
}

// end writes until each watch of a stream is cancelled. It tells whether that, and not the end of the stream, came.
func (s *scene) end(l *open) bool {
	s.Helper()
	for begun := s.now(); s.now() < begun+hangBound; {
		_, err := s.root.put("/a/1", fmt.Sprint(s.now()), 0)
		s.Must(err)
		left := 0
		for _, w := range l.watches {
			if w.canceled == "" {
				left++
			}
		}
		if left == 0 {
			return true
		}
		if !l.receive(s.Ctx, 20*time.Millisecond) {
			return false
		}
	}
	s.Fatalf("watches go on: %v", l.watches)
	return false
}

// wantDenied waits until each watch of a stream is cancelled, because it is not permitted any more.
func (s *scene) wantDenied(l *open) {
	s.Helper()
	if !s.end(l) {
		s.Errorf("a stream of watches ended: %v", l.err)
		return
	}
	for _, w := range l.watches {
		targettest.Want(s, fmt.Sprintf("why %v ended", w), w.canceled, rpctypes.ErrGRPCPermissionDenied.Error())
	}
}
