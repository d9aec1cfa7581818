package consensus

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

func reached(uint64) bool { return true }

// followed is an Outgoing, and what a leader knows of the others.
type followed struct {
	*testing.T
	Outgoing
	members map[uint64]tracker.Progress
}

func (f *followed) tick() {
	f.follow(func(id uint64) (tracker.Progress, bool) { p, ok := f.members[id]; return p, ok }, 10)
}

func (f *followed) matches(id, index uint64) {
	f.members[id] = tracker.Progress{Match: index, State: tracker.StateReplicate}
	f.tick()
}

func (f *followed) want(when string, index uint64, ok bool) {
	f.Helper()
	if got, is := f.Oldest(reached); got != index || is != ok {
		f.Errorf("%s: %d, %v, want %d, %v", when, got, is, index, ok)
	}
}

// The log behind a snapshot stays until its receiver has that too, and not only until the snapshot has arrived, or is installed.
func TestTheLogIsKeptUntilWhoGotASnapshotHasCaughtUp(t *testing.T) {
	o := followed{T: t, members: map[uint64]tracker.Progress{2: {Match: 20, State: tracker.StateSnapshot}, 3: {Match: 30, State: tracker.StateSnapshot}}}
	o.ask(2, 100)
	o.ask(3, 150)
	o.tick()
	o.Release(10)
	o.want("under way", 100, true)
	o.sent(2, nil)
	o.want("when one has arrived", 100, true)
	o.matches(2, 120)
	o.Release(500)
	o.want("when it is installed", 120, true)
	o.matches(2, 500)
	o.Release(500)
	o.want("when it has caught up", 150, true)
	if _, ok := o.Oldest(func(id uint64) bool { return id != 3 }); ok {
		t.Error("it is kept for a member that is not reached")
	}
	o.ask(2, 600)
	o.sent(3, errors.New("lost"))
	o.want("when one has failed, and the other is sent a newer one", 600, true)
	delete(o.members, 2)
	o.tick()
	o.want("when there is nobody to install it", 0, false)
}

// Who installs a snapshot refuses another one, and needs what is behind the first.
func TestASecondSnapshotThatIsRefusedDoesNotEndTheFirst(t *testing.T) {
	o := followed{T: t, members: map[uint64]tracker.Progress{2: {Match: 20, State: tracker.StateSnapshot}}}
	o.ask(2, 100)
	o.sent(2, nil)
	for range 2 {
		o.ask(2, 300)
		o.want("when another one is asked for", 100, true)
		o.sent(2, errors.New("busy"))
		o.want("when that is refused", 100, true)
	}
	o.matches(2, 150)
	o.ask(2, 500)
	o.want("when one is asked for by who has installed the first", 500, true)
	o.sent(2, errors.New("lost"))
	o.want("when that is lost", 0, false)
}

// leadOne is a leader of three. Member 2 lags behind what the leader has in its log, and is sent a snapshot of entry 10.
func leadOne(t *testing.T) *recorder {
	t.Helper()
	r := newRecorder(t)
	r.lead(t)
	acknowledge := func(id, index uint64) {
		r.step(t, &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: proto.Uint64(id), Term: proto.Uint64(2), Index: proto.Uint64(index)})
	}
	propose := func() {
		if err := r.m.Propose([]byte("value")); err != nil {
			t.Fatal(err)
		}
		r.m.Advance()
		r.writeAll()
		acknowledge(3, r.m.last)
		for len(r.applying) > 0 {
			r.m.Done(r.applying[0])
			r.applying = r.applying[1:]
		}
		r.m.Advance()
	}
	for r.m.last < 10 {
		propose()
	}
	conf := &raftpb.ConfState{Voters: []uint64{1, 2, 3}, AutoLeave: proto.Bool(false)}
	if _, err := r.m.Storage().CreateSnapshot(10, conf, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.m.Storage().Compact(10); err != nil {
		t.Fatal(err)
	}
	r.step(t, &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), Term: proto.Uint64(2), Index: proto.Uint64(1), Reject: proto.Bool(true), RejectHint: proto.Uint64(1), LogTerm: proto.Uint64(1)})
	if r.count(raftpb.MsgSnap) != 1 {
		t.Fatalf("it is sent %v", r.sent)
	}
	for range 5 {
		propose()
	}
	return r
}

// count is how many messages of a type were sent to member 2 since the last call.
func (r *recorder) count(kind raftpb.MessageType) (n int) {
	for _, m := range r.sent {
		if m.GetTo() == 2 && m.GetType() == kind {
			n++
		}
	}
	r.sent = nil
	return n
}

// heartbeat has member 2 answer a heartbeat.
func (r *recorder) heartbeat(t *testing.T) {
	t.Helper()
	r.step(t, &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), Term: proto.Uint64(2)})
}

// tick does not let member 3 be lost.
func (r *recorder) tick(t *testing.T) {
	t.Helper()
	r.m.Tick()
	r.m.Advance()
	r.writeAll()
	r.step(t, &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: proto.Uint64(3), Term: proto.Uint64(2)})
}

// Who installs a snapshot can take nothing else, however often it answers heartbeats.
func TestWhoInstallsASnapshotIsSentNothing(t *testing.T) {
	r := leadOne(t)
	r.m.SnapshotSent(2, nil)
	for range 2 * r.m.electionTicks {
		r.tick(t)
		r.heartbeat(t)
	}
	if n := r.count(raftpb.MsgApp); n > 0 {
		t.Errorf("it is sent %d appends", n)
	}
	// The snapshot that was sent is newer than what raft asked for.
	r.step(t, &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), Term: proto.Uint64(2), Index: proto.Uint64(12)})
	if r.count(raftpb.MsgApp) == 0 {
		t.Error("it is sent nothing when it has installed it")
	}
}

// An answer that is lost does not come again.
func TestWhoHasASnapshotAndDoesNotAnswerIsAskedWhatItHas(t *testing.T) {
	for name, lose := range map[string]func(r *recorder){
		"for long": func(r *recorder) {
			for range answerTimeouts * r.m.electionTicks {
				r.tick(t)
			}
		},
		"and is out of reach": func(r *recorder) { r.m.Unreachable(2) },
	} {
		r := leadOne(t)
		r.m.SnapshotSent(2, nil)
		r.tick(t)
		r.heartbeat(t)
		if r.count(raftpb.MsgApp) > 0 {
			t.Errorf("%s: it is asked at once", name)
		}
		lose(r)
		r.tick(t)
		r.heartbeat(t)
		if r.count(raftpb.MsgApp) == 0 {
			t.Errorf("%s: it is not asked", name)
		}
	}
}

// The log may be cut all the same, when too much has come since.
func TestWhoHasInstalledASnapshotBehindWhichTheLogIsCutGetsTheNext(t *testing.T) {
	r := leadOne(t)
	r.m.SnapshotSent(2, nil)
	conf := &raftpb.ConfState{Voters: []uint64{1, 2, 3}, AutoLeave: proto.Bool(false)}
	if _, err := r.m.Storage().CreateSnapshot(15, conf, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.m.Storage().Compact(15); err != nil {
		t.Fatal(err)
	}
	r.step(t, &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), Term: proto.Uint64(2), Index: proto.Uint64(12)})
	r.sent = nil
	r.tick(t)
	r.heartbeat(t)
	if r.count(raftpb.MsgSnap) == 0 {
		t.Error("it is not sent one")
	}
}
