package core

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What comes between the end of a leader and the next election waits for the next leader. (At etcd it is sent to the old one, and its
// client is told 7 s later that it may have been lost.)
func TestAWriteAfterTheEndOfALeaderWaitsForTheNext(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.ElectionTimeout = time.Second })
	for range 3 {
		old := c.leader()
		id := c.members[old].node.member.ID
		c.stop(old) // and nobody takes over
		for _, i := range c.up() {
			node := c.members[i].node
			c.until("the end of the leader is noticed", func() bool { return !node.reaches(id) })
			if _, err := tryPut(t, node, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
				t.Errorf("a write at %s: %v", c.members[i].name, err)
			}
		}
		c.start(old)
		c.waitReady(old)
	}
}
