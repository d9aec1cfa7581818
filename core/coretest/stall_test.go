package coretest

import (
	"testing"
	"testing/cryptotest"
	"time"

	"weir/core/consensus"
)

// load has clients use a cluster of three, of which something is not well, for 200 election timeouts, and counts the elections.
func load(t *testing.T, seed uint64, spoil func(c *Cluster, leader *Member)) (elections int) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	c := New(3, seed, consensus.Bounds{})
	c.run(2 * time.Second)
	spoil(c, c.leader())
	before := c.checks.counts
	s := &storm{Cluster: c, ends: time.Hour}
	for range 8 {
		s.client(5 * time.Millisecond)
	}
	c.run(200 * electionTicks * tick)
	elections = c.checks.counts.elections - before.elections
	if c.checks.counts.writes-before.writes < 50 && c.violation == nil {
		t.Errorf("seed %d: %s", seed, c.Summary())
	}
	if c.violation == nil {
		_ = c.converge() // violation has it
	}
	if err := c.Err(); err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, c.Trace())
	}
	return elections
}

// Another leader's disk would be as slow.
func TestDisksThatAreAllSlowAreNoReasonForElections(t *testing.T) {
	const ms = time.Millisecond
	for _, disk := range []span{{50 * ms, 80 * ms}, {100 * ms, 150 * ms}, {150 * ms, 250 * ms}, {50 * ms, 250 * ms}} {
		for seed := range uint64(2) {
			elections := load(t, seed, func(c *Cluster, _ *Member) {
				for _, m := range c.sorted() {
					m.disk.sync = disk
				}
			})
			if elections > 0 {
				t.Errorf("disks that take %v, seed %d: %d elections", disk, seed, elections)
			}
		}
	}
}

// The leader's disk stands still, and the others reach each other only through it: the leader cannot know that nobody else can lead.
func TestALeaderThatNobodyCanReplaceSeldomTriesToLeave(t *testing.T) {
	for seed := range uint64(2) {
		elections := load(t, seed, func(c *Cluster, leader *Member) {
			leader.disk.isStuck = true
			for a := range c.members {
				for b := range c.members {
					c.network.cut[link{a, b}] = a != leader.id && b != leader.id
				}
			}
		})
		if elections > 20 { // one in ten election timeouts
			t.Errorf("seed %d: %d elections", seed, elections)
		}
	}
}
