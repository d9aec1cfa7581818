package transport

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The metadata of every call between members. Ids are in hexadecimal.
const (
	keyCluster  = "weir-cluster"
	keyFrom     = "weir-from"
	keyTo       = "weir-to"
	keyProtocol = "weir-protocol" // of a call: "min-max" that the caller speaks; of an answer: what is spoken
	keyURLs     = "weir-peer-urls"
	keyChannel  = "weir-channel" // of Messages
	keyTerm     = "weir-term"    // of Snapshot: the sender's, in decimal
	keyRefusal  = "weir-refusal" // in the trailer
)

// The versions of what is said between members that this one speaks. Two adjacent releases have one in common.
const (
	minProtocol = 1
	maxProtocol = 1
)

// caller is who calls, from the metadata of a call that is in order.
type caller struct {
	from     uint64
	urls     []string
	protocol int // the highest that both speak
}

// refusal is why a member does not talk to another, whatever either says. It has a name on the wire, because the other one
// acts on it.
type refusal string

const (
	otherCluster  refusal = "other-cluster"
	otherMember   refusal = "other-member"
	removedMember refusal = "removed"
	otherProtocol refusal = "protocol"
	unknownMember refusal = "unknown" // yet; raft's messages it may send nevertheless
)

// refusedError is a refusal with what is to be read about it.
type refusedError struct {
	refusal
	text string
}

func (e *refusedError) Error() string { return e.text }

// Is tells callers of Conn what they may ask for.
func (e *refusedError) Is(target error) bool {
	return target == ErrNotKnown && e.refusal == unknownMember
}

// GRPCStatus is what gRPC answers with.
func (e *refusedError) GRPCStatus() *status.Status {
	return status.New(codes.FailedPrecondition, e.text)
}

func refuseRemoved(id uint64) *refusedError {
	return &refusedError{removedMember, fmt.Sprintf("%s was removed from the cluster", peerName(id))}
}

// explain puts the name of a refusal into the trailer of a call, and returns err.
func explain(ctx context.Context, err error) error {
	if r, ok := err.(*refusedError); ok { //nolint:errorlint // it is never wrapped, since gRPC has to find it
		_ = grpc.SetTrailer(ctx, metadata.Pairs(keyRefusal, string(r.refusal))) // fails only after the call
	}
	return err
}

// outgoing returns ctx with what a call to a peer carries.
func (t *Transport) outgoing(ctx context.Context, to uint64, more ...string) context.Context {
	t.mu.RLock()
	self := t.self
	t.mu.RUnlock()
	md, _ := metadata.FromOutgoingContext(ctx)
	md = metadata.Join(md, metadata.Pairs(more...))
	md.Set(keyCluster, idString(t.cfg.ClusterID))
	md.Set(keyFrom, idString(t.cfg.ID))
	md.Set(keyTo, idString(to))
	md.Set(keyProtocol, fmt.Sprintf("%d-%d", minProtocol, maxProtocol))
	if len(self) > 0 {
		md.Set(keyURLs, strings.Join(self, ","))
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// admit reads who calls and refuses whom it must: callers of another cluster, who take this member for another, who were removed, or
// are no weir members.
func (t *Transport) admit(ctx context.Context) (caller, error) {
	if t.ctx.Err() != nil {
		return caller{}, errClosed
	}
	md, _ := metadata.FromIncomingContext(ctx)
	cluster, err1 := idOf(md, keyCluster)
	from, err2 := idOf(md, keyFrom)
	to, err3 := idOf(md, keyTo)
	lowest, highest, err4 := protocolsOf(md)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			return caller{}, status.Errorf(codes.InvalidArgument, "the caller is not a weir member: %v", err)
		}
	}
	switch {
	case cluster != t.cfg.ClusterID:
		return caller{}, &refusedError{otherCluster, fmt.Sprintf(
			"%s is of cluster %x, but called by one of cluster %x", peerName(t.cfg.ID), t.cfg.ClusterID, cluster)}
	case to != t.cfg.ID || from == t.cfg.ID || from == 0:
		return caller{}, &refusedError{otherMember, fmt.Sprintf(
			"this is %s, but called as %x by %x", peerName(t.cfg.ID), to, from)}
	case lowest > maxProtocol || highest < minProtocol:
		return caller{}, &refusedError{otherProtocol, fmt.Sprintf(
			"%s speaks protocols %d to %d between members, but is called with %d to %d",
			peerName(t.cfg.ID), minProtocol, maxProtocol, lowest, highest)}
	case t.cfg.IsRemoved(from):
		return caller{}, refuseRemoved(from)
	}
	c := caller{from: from, protocol: min(highest, maxProtocol)}
	if urls := one(md, keyURLs); urls != "" && len(urls) <= maxURLs {
		c.urls = strings.Split(urls, ",")
	}
	return c, nil
}

// maxURLs bounds in bytes what a caller may say of its own URLs.
const maxURLs = 4 << 10

func (c caller) accept() metadata.MD { return metadata.Pairs(keyProtocol, strconv.Itoa(c.protocol)) }

func one(md metadata.MD, key string) string {
	if v := md.Get(key); len(v) == 1 {
		return v[0]
	}
	return ""
}

func idOf(md metadata.MD, key string) (uint64, error) {
	id, err := strconv.ParseUint(one(md, key), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("metadata %s: %w", key, err)
	}
	return id, nil
}

func protocolsOf(md metadata.MD) (lowest, highest int, err error) {
	low, high, _ := strings.Cut(one(md, keyProtocol), "-")
	if lowest, err = strconv.Atoi(low); err == nil {
		highest, err = strconv.Atoi(high)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("metadata %s: %w", keyProtocol, err)
	}
	return lowest, highest, nil
}
