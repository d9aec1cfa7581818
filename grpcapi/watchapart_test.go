package grpcapi

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/cache"
	"weir/grpcapi/wire"
)

// patientUpstream answers the first watch of a forwarded stream, and ends the stream only when it is told to, or with its
// context.
type patientUpstream struct {
	fakeUpstream
	begun chan grpc.ServerStream // an element for each stream that was begun
	over  chan error             // an element ends a stream
}

func newPatientUpstream() *patientUpstream {
	return &patientUpstream{begun: make(chan grpc.ServerStream, 100), over: make(chan error)}
}

func (u *patientUpstream) Stream(_ string, gs grpc.ServerStream, _ *cache.Session) error {
	u.begun <- gs
	var request wire.Raw
	if err := gs.RecvMsg(&request); err != nil {
		return err
	}
	head := wire.AppendWatchCreated(wire.AppendWatchHead(nil, wire.Header{ClusterID: 11, MemberID: 12, Revision: 7, RaftTerm: 13}, 0))
	if err := gs.SendMsg(wire.Raw(head)); err != nil {
		return err
	}
	select {
	case err := <-u.over:
		return err
	case <-gs.Context().Done():
		return status.FromContextError(gs.Context().Err()).Err()
	}
}

var errComeAgain = status.Error(codes.Unavailable, "weir: watches are shared from now on")

func TestForwardedStreamsEndWhenSharingBegins(t *testing.T) {
	f, u := newFakeSharer(t), newPatientUpstream()
	rejoin := f.shareNothing()
	_, cc := startSharing(t, f, u)
	forwarded := []*watchClient{openWatch(t, cc), openWatch(t, cc), openWatch(t, cc)}
	uncached := openWith(t, cc, uncachedKey, "true")
	for _, c := range append(forwarded, uncached) {
		c.create(key("a"))
		c.expect("@7 id=0 created")
	}
	if n := f.watching.Load(); n != 0 {
		t.Errorf("%d forwarded streams are said to be served from the hub", n)
	}
	f.shareAll()
	rejoin(errComeAgain)
	for _, c := range forwarded {
		c.expectEnd(errComeAgain)
	}
	again := openWatch(t, cc)
	again.create(key("a"))
	again.expect("@1 id=0 created")

	u.over <- errOver // which only the uncached one can be told
	uncached.expectEnd(errOver)
}

func TestStreamIsNotForwardedForLongIfSharingBeganMeanwhile(t *testing.T) {
	f, u := newFakeSharer(t), newPatientUpstream()
	rejoin := f.shareNothing()
	rejoin(errComeAgain)
	_, cc := startSharing(t, f, u)
	c := openWatch(t, cc)
	c.create(key("a"))
	c.expectEnd(errComeAgain)
	<-(<-u.begun).Context().Done()
}

func TestForwardedStreamEndsAsUpstreamEndsIt(t *testing.T) {
	f, u := newFakeSharer(t), newPatientUpstream()
	rejoin := f.shareNothing()
	defer rejoin(nil)
	_, cc := startSharing(t, f, u)
	c := openWatch(t, cc)
	c.create(key("a"))
	c.expect("@7 id=0 created")
	u.over <- errOver
	c.expectEnd(errOver)
}
