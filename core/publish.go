package core

import (
	"context"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/membershippb"

	"weir/core/auth"
)

// publish is the goroutine that makes known what this member is called and where its clients find it, if the cluster knows
// otherwise. They say where a member is, not who it is, and may be others after each start. It ends when they are known.
func (n *Node) publish() {
	defer n.goroutines.Done()
	for !n.tryPublish() {
		n.pause(publishPause)
		if n.ctx.Err() != nil {
			return
		}
	}
	close(n.published)
}

// tryPublish tells whether what is to be known is.
func (n *Node) tryPublish() bool {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.requestTimeout())
	defer cancel()
	if n.linearizable(ctx) != nil { // there is no leader yet
		return false
	}
	if n.isPublished() {
		return true
	}
	_, err := n.proposeAs(ctx, kindMemberAttr, auth.Identity{}, &membershippb.ClusterMemberAttrSetRequest{
		Member_ID: n.member.ID, MemberAttributes: &membershippb.Attributes{Name: n.cfg.Name, ClientUrls: n.cfg.ClientURLs},
	})
	if err != nil {
		n.logger.Warn("could not publish this member's name and URLs, trying again", "error", err)
	}
	return err == nil
}

// publishPause is how long after a failure publish tries again.
const publishPause = 200 * time.Millisecond

// isPublished tells whether the cluster, as far as this member knows, knows its name and its clients' URLs.
func (n *Node) isPublished() bool {
	self, ok := n.members.get(n.member.ID)
	return ok && self.Name == n.cfg.Name && slices.Equal(self.ClientURLs, n.cfg.ClientURLs)
}

// pause waits for a while, or until the node stops.
func (n *Node) pause(d time.Duration) {
	select {
	case <-n.cfg.Clock.At(n.cfg.Clock.Now().Add(d)):
	case <-n.stopped:
	}
}
