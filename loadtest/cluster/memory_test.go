package cluster

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A snapshot goes from one member to another without either of them having it in memory: no more of it than the index of its keys, of
// which there are few here.
func TestASnapshotTakesLittleMemory(t *testing.T) {
	const (
		values, valueBytes = 880, 256 << 10
		ofSender           = 32 << 20
		ofReceiver         = 96 << 20 // all that it has, as it has just been started
	)
	g := newGuarded(t, target.Core)
	lead := leader(g.Site, g.conns)
	receiver := g.Cluster.Members[(lead+1)%members]
	g.Must(receiver.Kill())
	var writing sync.WaitGroup
	for w := range 4 {
		writing.Go(func() {
			value := make([]byte, valueBytes)
			for i := w; i < values; i += 4 {
				_, _ = rand.Read(value) // cannot fail
				if err := g.put(lead, fmt.Sprint(i), string(value)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	// Those who have written that had its log in memory.
	senders := slices.DeleteFunc(slices.Clone(g.Cluster.Members), func(m *target.Member) bool { return m == receiver })
	for _, m := range senders {
		g.Must(m.Stop())
		g.Must(m.Restart())
	}
	before := map[*target.Member]int{}
	for _, m := range senders {
		g.Must(m.WaitReady(g.Ctx, target.Serves(m.Addr)))
		before[m] = g.heap(m)
	}
	g.Must(receiver.Restart())
	g.Must(receiver.WaitReady(g.Ctx, target.Serves(receiver.Addr)))
	g.Eventually(30*time.Second, "the snapshot has come", func() error {
		n, err := receiver.Metric(g.Ctx, "etcd_network_snapshot_receive_success")
		if err == nil && n == 0 {
			err = errors.New("none has been received")
		}
		return err
	})
	s, err := pb.NewMaintenanceClient(targettest.Dial(g, receiver.Addr)).Status(g.Ctx, &pb.StatusRequest{})
	g.Must(err)
	if s.DbSize < values*valueBytes {
		t.Errorf("the receiver's store has %d bytes, of %d that were written", s.DbSize, values*valueBytes)
	}
	for _, m := range g.Cluster.Members {
		bound := ofSender
		if m == receiver {
			bound = ofReceiver
		}
		grown := g.heap(m) - before[m]
		t.Logf("the heap of %s has grown by %d MiB", m.Name, grown>>20)
		if grown > bound {
			t.Errorf("the heap of %s has grown by %d bytes for a snapshot of %d, more than %d", m.Name, grown, s.DbSize, bound)
		}
	}
}

// heap is about the most that the heap of a member has had in bytes: Go does not give its addresses back.
func (g *guarded) heap(m *target.Member) int {
	g.Helper()
	n, err := m.Metric(g.Ctx, "go_memstats_heap_sys_bytes")
	g.Must(err)
	if n == 0 {
		g.Fatalf("%s does not tell of its heap", m.Name)
	}
	return n
}
