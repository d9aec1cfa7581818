package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/core/auth"
	"weir/core/mvcc"
)

// All members apply the same log, so they hold the same. Where one does not, its disk or its memory has changed something, or there is
// a mistake in weir. Members find that by comparing hashes of what they hold, in etcd's three ways (server/etcdserver/corrupt.go, etcd 3.7):
//
//   - At its start a member compares what it holds with the others, and ends if it differs.
//   - Periodically the leader has all members read and hash everything.
//   - Periodically the leader compares the hashes that compactions have computed on their way, which costs next to nothing and finds
//     only what is gone or older than the last compaction.
//
// Hashes are compared if they are of the same revision and were computed with the same compact revision; if they are not, the next
// time may do. Members with the hash of a majority are right. The CORRUPT alarm names the others, and nobody (0) if no majority agrees;
// while it is raised all members refuse writes.
//
// Here etcd differs: its periodic check takes the leader for right, so that a leader that differs has its followers blamed one after
// the other; and a member at its start ends when it differs from any other, also if that one is alone with what it holds.

// minority returns the members who do not claim what a majority of so many members claims, in order: nobody if all claims are equal,
// and 0 if there is no such majority. Who claims nothing counts as one more that may claim anything.
func minority[C comparable](claims map[uint64]C, members int) (of []uint64) {
	count := map[C]int{}
	for _, c := range claims {
		count[c]++
	}
	if len(count) <= 1 {
		return nil
	}
	majority := false
	for member, c := range claims {
		if count[c] > members/2 {
			majority = true
		} else {
			of = append(of, member)
		}
	}
	if !majority {
		return []uint64{0}
	}
	slices.Sort(of)
	return of
}

// claim is what a member holds, or that it holds what cannot be yet.
type claim struct {
	hash  uint32
	ahead bool
}

func (c claim) String() string {
	if c.ahead {
		return "more than is committed"
	}
	return fmt.Sprintf("hash %d", c.hash)
}

// describe tells who claims what, in one line.
func describe(claims map[uint64]claim) string {
	var all []string
	for member, c := range claims {
		all = append(all, fmt.Sprintf("%s has %v", idString(member), c))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// checkAtStart fails if this member, which has data from before, holds something else than others do. Those who cannot be reached, or
// have not what could be compared, are passed over. It is made when this member has applied all that was committed; etcd makes it
// before, and then cannot compare what it has missed a compaction of.
func (n *Node) checkAtStart(ctx context.Context) error {
	if !n.cfg.InitialCorruptCheck || !n.hadData || n.isAlone() {
		return nil
	}
	self := idString(n.member.ID)
	n.logger.Info("starting initial corruption check", "local-member-id", self)
	own, others, err := n.hashAll(ctx)
	if err != nil {
		return fmt.Errorf("%s failed to fetch hash: %w", self, err)
	}
	claims := n.claimsOf(own, others, func(hashAnswer) bool { return false })
	differ := minority(claims, len(others)+1)
	switch {
	case len(differ) == 0:
		n.logger.Info("initial corruption checking passed; no corruption", "local-member-id", self, "compared-with", len(claims)-1)
	case slices.Contains(differ, n.member.ID), slices.Contains(differ, 0):
		return fmt.Errorf("%s found data inconsistency with peers at revision %d: %s; remove the member that is wrong, and add it again without its data",
			self, own.Revision, describe(claims))
	default:
		n.logger.Warn("found different hash values from remote peer; most members have this one's", "local-member-id", self,
			"revision", own.Revision, "members", describe(claims))
	}
	return nil
}

// hashAll computes the hash of all that this member holds, and then has the others do so at the same revision. They have etcd's time for
// a request, and more if it took long here.
func (n *Node) hashAll(ctx context.Context) (own mvcc.KVHash, others []testimony[hashAnswer], err error) {
	start := time.Now()
	if own, _, err = n.store.ComputeHash(ctx, 0); err != nil {
		return own, nil, err
	}
	const slower = 4 // than this member the others may be
	patience := n.cfg.requestTimeout() + slower*time.Since(start)
	others, err = askOthers[hashAnswer](ctx, n, callHash, hashRequest{own.Revision}, patience)
	return own, others, err
}

// claimsOf returns what all members claim of whom it can be said.
func (n *Node) claimsOf(own mvcc.KVHash, others []testimony[hashAnswer], isAhead func(hashAnswer) bool) map[uint64]claim {
	claims := map[uint64]claim{n.member.ID: {hash: own.Hash}}
	for _, o := range others {
		if o.err == nil && isAhead(o.told) {
			claims[o.member] = claim{ahead: true}
		} else if n.isComparable(own, o) {
			claims[o.member] = claim{hash: o.told.Hash.Hash}
		}
	}
	return claims
}

// isComparable tells whether a member's hash says anything beside this one's, and logs why it does not.
func (n *Node) isComparable(own mvcc.KVHash, o testimony[hashAnswer]) bool {
	switch {
	case o.err != nil:
		n.logger.Warn("cannot fetch hash from remote peer", "remote-peer-id", idString(o.member), "revision", own.Revision, "error", o.err)
		return false
	case o.told.Hash.Compact != own.Compact || o.told.Hash.Revision != own.Revision:
		n.logger.Warn("cannot compare the hash of a remote peer: it was computed with another compact revision",
			"remote-peer-id", idString(o.member), "local-member", own, "remote-peer", o.told.Hash)
		return false
	}
	return true
}

// checkStores is the goroutine of the periodic check.
func (n *Node) checkStores() {
	defer n.goroutines.Done()
	n.whileLeading(n.cfg.CorruptCheckInterval, n.compareStores)
}

// checkCompactions is the goroutine of the check of compactions.
func (n *Node) checkCompactions() {
	defer n.goroutines.Done()
	n.whileLeading(n.cfg.CompactHashCheckInterval, (&compactionCheck{n: n}).compare)
}

// whileLeading makes a check each interval in which this member leads; 0 is never.
func (n *Node) whileLeading(interval time.Duration, check func(context.Context) error) {
	for interval > 0 {
		select {
		case <-n.cfg.Clock.At(n.cfg.Clock.Now().Add(interval)):
		case <-n.stopped:
			return
		}
		if !n.leads() || n.isAlone() {
			continue
		}
		if err := check(n.ctx); err != nil && n.ctx.Err() == nil {
			n.logger.Warn("could not compare what the members hold", "error", err)
		}
	}
}

// compareStores is one periodic check.
func (n *Node) compareStores(ctx context.Context) error {
	own, others, err := n.hashAll(ctx)
	if err != nil {
		return err
	}
	// Now this member has all that the others can have had when they answered.
	if err := n.linearizable(ctx); err != nil {
		return err
	}
	revision, compact := n.store.Revision(), n.store.CompactRevision()
	claims := n.claimsOf(own, others, func(a hashAnswer) bool { return a.Revision > revision || a.Hash.Compact > compact })
	n.logger.Info("finished peer corruption check", "revision", own.Revision, "number-of-peers-checked", len(claims)-1)
	return n.accuse(ctx, own, claims, len(others)+1)
}

// compactionCheck compares the hashes that compactions have left. Of one goroutine.
type compactionCheck struct {
	n       *Node
	checked int64 // all members had the same at this revision
}

// compare looks for the newest compaction that all members have a hash of. Hashes that differ are found also if a member has none.
func (c *compactionCheck) compare(ctx context.Context) error {
	n := c.n
	own := n.store.CompactionHashes()
	if i := slices.IndexFunc(own, func(h mvcc.KVHash) bool { return h.Revision <= c.checked }); i >= 0 {
		own = own[:i]
	}
	if len(own) == 0 {
		return nil
	}
	others, err := askOthers[[]mvcc.KVHash](ctx, n, callCompactionHashes, nil, n.cfg.requestTimeout())
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.err != nil {
			n.logger.Warn("skipped peer's hash", "remote-peer-id", idString(o.member), "error", o.err)
		}
	}
	for _, hash := range own {
		claims := map[uint64]claim{n.member.ID: {hash: hash.Hash}}
		for _, o := range others {
			i := slices.IndexFunc(o.told, func(h mvcc.KVHash) bool { return h.Revision == hash.Revision && h.Compact == hash.Compact })
			if i >= 0 {
				claims[o.member] = claim{hash: o.told[i].Hash}
			}
		}
		if len(minority(claims, len(others)+1)) > 0 {
			return n.accuse(ctx, hash, claims, len(others)+1)
		}
		if len(claims) == len(others)+1 {
			c.checked = hash.Revision
			n.logger.Info("successfully checked hash on whole cluster", "revision", hash.Revision, "compact-revision", hash.Compact)
			return nil
		}
	}
	n.logger.Warn("skipped compaction hash check: there is no compaction that all members have the hash of", "hashes", len(own))
	return nil
}

// accuse raises the CORRUPT alarm for those in the minority, if there are any.
func (n *Node) accuse(ctx context.Context, own mvcc.KVHash, claims map[uint64]claim, members int) error {
	corrupt := minority(claims, members)
	if len(corrupt) == 0 {
		return nil
	}
	var errs []error
	for _, member := range corrupt {
		n.logger.Error("detected hash mismatch", "corrupt-member-id", idString(member), "revision", own.Revision,
			"compact-revision", own.Compact, "members", describe(claims))
		alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: pb.AlarmType_CORRUPT}
		if _, err := n.proposeAs(ctx, kindAlarm, auth.Identity{}, alarm); err != nil {
			errs = append(errs, fmt.Errorf("raise the CORRUPT alarm for member %s: %w", idString(member), err))
		}
	}
	return errors.Join(errs...)
}
