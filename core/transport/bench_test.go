//go:build unix

package transport

import (
	"bytes"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// processorTime is what this process, and so both members, have used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRoundTrip is an append and its answer, one after another: the transport's part of the latency of a write.
func BenchmarkRoundTrip(b *testing.B) {
	leader, follower := start(b, 1), start(b, 2)
	connect(leader, follower)
	leader.active(b, follower)
	follower.active(b, leader)
	answered := make(chan struct{}, 1)
	follower.onReceive(func(*raftpb.Message) { follower.say(heartbeat(follower, leader, 1)) })
	leader.onReceive(func(*raftpb.Message) { answered <- struct{}{} })
	drain(b, leader, follower)
	data := make([]byte, 256)
	var took []time.Duration
	cpu := processorTime(b)
	for i := 0; b.Loop(); i++ {
		begun := time.Now()
		leader.say(appendMsg(leader, follower, uint64(i), data))
		<-answered
		took = append(took, time.Since(begun))
	}
	reportWorst(b, took)
	b.ReportMetric(float64(processorTime(b)-cpu)/float64(b.N)/1e3, "cpu-us/op")
}

// BenchmarkRoundTripBesideBulk is the same for heartbeats while appends of 1 MiB and a snapshot go to the same peer as fast as
// they can.
func BenchmarkRoundTripBesideBulk(b *testing.B) {
	leader, follower := start(b, 1), start(b, 2)
	connect(leader, follower)
	leader.active(b, follower)
	follower.active(b, leader)
	follower.onSnapshot(discard)
	taken, answered := make(chan struct{}, 8), make(chan struct{}, 1)
	follower.onReceive(func(m *raftpb.Message) {
		if m.GetType() == raftpb.MsgApp {
			<-taken
			return
		}
		follower.say(heartbeat(follower, leader, 1))
	})
	leader.onReceive(func(*raftpb.Message) { answered <- struct{}{} })
	drain(b, leader, follower)
	endless := &content{size: 1 << 50}
	leader.SendSnapshot(snapshotMsg(leader, follower), endless.size, endless)
	bulk := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(bulk)
		for data := make([]byte, 1<<20); ; {
			select {
			case taken <- struct{}{}:
				leader.say(appendMsg(leader, follower, 1, data))
			case <-stop:
				return
			}
		}
	}()
	var took []time.Duration
	for b.Loop() {
		begun := time.Now()
		leader.say(heartbeat(leader, follower, 1))
		<-answered
		took = append(took, time.Since(begun))
	}
	close(stop)
	<-bulk
	reportWorst(b, took)
}

func reportWorst(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-us")
}

// BenchmarkAppends sends appends with a window of them on the way, as raft does to a follower that keeps up.
func BenchmarkAppends(b *testing.B) {
	for _, c := range []struct{ size, window int }{{256, 64}, {4 << 10, 64}, {64 << 10, 64}, {1 << 20, 16}, {10 << 20, 4}} {
		b.Run(fmt.Sprintf("%dB", c.size), func(b *testing.B) {
			leader, follower := start(b, 1), start(b, 2)
			connect(leader, follower)
			leader.active(b, follower)
			free := make(chan struct{}, c.window)
			follower.onReceive(func(*raftpb.Message) { <-free })
			drain(b, follower)
			data := bytes.Repeat([]byte("x"), c.size)
			b.SetBytes(int64(c.size))
			cpu := processorTime(b)
			for i := 0; b.Loop(); i++ {
				free <- struct{}{}
				leader.say(appendMsg(leader, follower, uint64(i), data))
			}
			for len(free) > 0 {
				time.Sleep(10 * time.Microsecond)
			}
			b.ReportMetric(float64(processorTime(b)-cpu)/float64(b.N)/1e3, "cpu-us/op")
		})
	}
}

// BenchmarkSnapshot sends 64 MiB.
func BenchmarkSnapshot(b *testing.B) {
	leader, follower := start(b, 1), start(b, 2)
	connect(leader, follower)
	follower.onSnapshot(discard)
	const size = 64 << 20
	b.SetBytes(size)
	cpu := processorTime(b)
	for b.Loop() {
		leader.SendSnapshot(snapshotMsg(leader, follower), size, &content{size: size})
		if sent := next(b, leader.sent); sent.err != nil {
			b.Fatal(sent.err)
		}
	}
	b.ReportMetric(float64(processorTime(b)-cpu)/float64(b.N)/1e3, "cpu-us/op")
}

// drain forgets what members receive.
func drain(b *testing.B, ms ...*member) {
	for _, m := range ms {
		done := make(chan struct{})
		b.Cleanup(func() { close(done) })
		go func() {
			for {
				select {
				case <-m.received:
				case <-done:
					return
				}
			}
		}()
	}
}
