package core

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
)

// lockedBuilder is a log that is read while it is written.
type lockedBuilder struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// batchOf is an entry with one request.
func batchOf(k kind, payload []byte) *raftpb.Entry {
	return &raftpb.Entry{Data: appendEntryRequest(appendEntryHeader(nil, 1), k, auth.Identity{User: "u", Revision: 1}, payload)}
}

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// badProposals are what members do not propose, by what is said of it.
func badProposals(t *testing.T) map[string]*raftpb.Entry {
	future := batchOf(kindPut, nil)
	future.Data[0] = 9
	long := batchOf(kindPut, nil)
	long.Data[entryHeaderSize] = 200
	change, err := confChange{Type: raftpb.ConfChangeRemoveNode, Member: memberRecord{ID: 5}}.encode(1)
	if err != nil {
		t.Fatal(err)
	}
	put := mustMarshal(t, &pb.PutRequest{Key: []byte("k")})
	invalid := badPayloads()
	return map[string]*raftpb.Entry{
		"shorter than its header": {},
		"format version 9":        future,
		"wrong length":            long,
		"kind 99":                 batchOf(99, nil),
		"of-level-2, which this":  batchOf(kindOfLevel2, nil),
		"decode txn request":      batchOf(kindTxn, []byte{0xff}),
		"decode PutRequest":       batchOf(kindPut, put[:len(put)-1]),
		"lease-expire, which":     batchOf(kindLeaseExpire, nil),
		"lease-checkpoint, which": batchOf(kindLeaseCheckpoint, nil),
		"level, which only":       batchOf(kindLevel, []byte(`{"level":1}`)),
		"unknown field":           batchOf(kindLevel, []byte(`{"level":1,"more":1}`)),
		"type EntryConfChange":    {Type: raftpb.EntryConfChange.Enum(), Data: change},
		"type EntryConfChangeV2":  {Type: raftpb.EntryConfChangeV2.Enum()},
		"type 7":                  {Type: raftpb.EntryType(7).Enum()},
		"cluster-version request": {Data: invalid["no version"].entry(t)},
		"downgrade request":       {Data: invalid["no version to go down to"].entry(t)},
		"txn request: ":           {Data: invalid["an unknown order"].entry(t)},
	}
}

func TestWhatAMemberCouldNotApplyIsNotPutIntoTheLogForAnother(t *testing.T) {
	logged := new(lockedBuilder)
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.level, cfg.Logger = 1, slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	leads := c.leader()
	leader, other := c.members[leads].node, c.members[(leads+1)%3].node
	bad := badProposals(t)
	propose := func(entries ...*raftpb.Entry) {
		other.transport.Send([]*raftpb.Message{{
			Type: raftpb.MsgProp.Enum(), From: proto.Uint64(other.member.ID), To: proto.Uint64(leader.member.ID),
			Entries: entries,
		}})
	}
	good := batchOf(kindTxn, mustMarshal(t, &pb.TxnRequest{}))
	for range 2 {
		for _, e := range bad {
			propose(good, e)
		}
	}
	before := leader.applied.Load()
	propose(good) // comes after them
	c.until("the good one is applied", func() bool { return leader.applied.Load() > before })
	for i := range c.members {
		c.put(i, "k", fmt.Sprint(i))
	}
	c.wantSame()
	c.wantMembers(3)
	for _, m := range c.members {
		if err := m.node.Err(); err != nil {
			t.Errorf("%s has ended: %v", m.name, err)
		}
	}
	if lines := strings.Count(logged.String(), "\n"); lines != len(bad) {
		t.Errorf("%d lines are logged for %d reasons:\n%s", lines, len(bad), logged)
	}
	for reason := range bad {
		if !strings.Contains(logged.String(), reason) {
			t.Errorf("nothing is logged with %q:\n%s", reason, logged)
		}
	}
}

// Others could make up reasons without end.
func TestReasonsOfRefusalsAreRememberedWithinBounds(t *testing.T) {
	var r refusals
	last := 0 // how often it was said that no more is logged
	isNew := func(from uint64, reason string) bool {
		said, isNew := r.add(from, errors.New(reason))
		if strings.HasSuffix(said, lastRefusal) {
			last++
			said = strings.TrimSuffix(said, lastRefusal)
		}
		if len(said) > maxReason+len("...") || !strings.HasPrefix(said, reason[:min(len(reason), maxReason)]) {
			t.Errorf("%d bytes are said for %d", len(said), len(reason))
		}
		return isNew
	}
	if !isNew(1, "reason 0") || isNew(1, "reason 0") || !isNew(2, "reason 0") {
		t.Error("not each one is new once")
	}
	for i := range 2 * maxRefusals {
		isNew(1, fmt.Sprintf("reason %d", i))
		isNew(1, strings.Repeat("x", 1000*i))
	}
	if len(r.logged) != maxRefusals {
		t.Errorf("%d are remembered", len(r.logged))
	}
	if last != 1 {
		t.Errorf("it is said %d times that no more is logged", last)
	}
}

func TestChangesOfTheMembershipThatMembersDoNotKnowAreRefused(t *testing.T) {
	c := newCluster(t, 3, settled)
	leads := c.leader()
	leader, other := c.members[leads].node, c.members[(leads+1)%3].node
	id := leader.member.ID
	ask := func(by *Node, r reconfiguration) error {
		r.ID, r.Under = 7, leader.tenure.ofTerm()
		refusal, err := by.askToReconfigure(t.Context(), id, r)
		if err != nil {
			t.Errorf("no answer: %v", err)
		}
		return refusal
	}
	for name, with := range map[string]struct {
		r    reconfiguration
		code codes.Code
	}{
		"of an unknown type":       {reconfiguration{Type: 99, Change: confChange{Member: memberRecord{ID: 5}}}, codes.FailedPrecondition},
		"of nobody":                {reconfiguration{Type: raftpb.ConfChangeAddNode}, codes.InvalidArgument},
		"a learner that votes":     {reconfiguration{Type: raftpb.ConfChangeAddNode, Change: confChange{Member: memberRecord{ID: 5, IsLearner: true}}}, codes.InvalidArgument},
		"a voter that does not":    {reconfiguration{Type: raftpb.ConfChangeAddLearnerNode, Change: confChange{Member: memberRecord{ID: 5}}}, codes.InvalidArgument},
		"a removal as a promotion": {reconfiguration{Type: raftpb.ConfChangeRemoveNode, Change: confChange{Member: memberRecord{ID: id}, Promote: true}}, codes.InvalidArgument},
	} {
		for _, by := range []*Node{leader, other} {
			if err := ask(by, with.r); status.Code(err) != with.code {
				t.Errorf("%s: %v, want %v", name, err, with.code)
			}
		}
	}
	if err := c.askInJSON(other, id, `{"id":7,"type":1,"under":1,"change":{"member":{"id":5},"later":true}}`); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("with an unknown field: %v", err)
	}
	if err := c.askInJSON(other, id, `{"id":7,"type":1,"under":1,"change":{"member":{"id":5}}} and more`); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("with something behind it: %v", err)
	}
	c.put(leads, "k", "v")
	c.wantMembers(3)
	c.wantSame()
}

// askInJSON asks a leader for a change in other words than members do, and returns the refusal.
func (c *testCluster) askInJSON(by *Node, leader uint64, request string) error {
	c.Helper()
	answer, err := by.callPeer(c.Context(), leader, "Reconfigure", []byte(request))
	if err != nil {
		c.Fatal(err)
	}
	said := new(spb.Status)
	if err := proto.Unmarshal(answer, said); err != nil {
		c.Fatal(err)
	}
	return status.ErrorProto(said)
}

// What an older member would pass over is not in the log below its level, and if it were it would not be passed over.
func TestFieldsOfTheLogThatAreNotKnownAreNotPassedOver(t *testing.T) {
	change, err := json.Marshal(confChange{Member: memberRecord{ID: 5}})
	if err != nil {
		t.Fatal(err)
	}
	for context, known := range map[string]bool{
		string(change): true,
		strings.Replace(string(change), `{`, `{"later":1,`, 1):                 false,
		strings.Replace(string(change), `{"member":{`, `{"member":{"l":1,`, 1): false,
		string(change) + "x": false,
		string(change) + "}": false,
		string(change) + "]": false,
		string(change) + " ": true,
	} {
		data := mustMarshal(t, &raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(5), Context: []byte(context)})
		if _, _, err := decodeConfChange(data); (err == nil) != known {
			t.Errorf("%s: %v", context, err)
		}
	}
}

// BenchmarkCheckProposal is what a leader pays for reading through the requests that a follower sends it.
func BenchmarkCheckProposal(b *testing.B) {
	a := &agreement{highest: newestLevel}
	a.agreed.Store(newestLevel)
	put := &pb.PutRequest{Key: make([]byte, 16), Value: make([]byte, 256)}
	txn := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: put.Key, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: 1}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}},
	}
	for k, m := range map[kind]proto.Message{kindPut: put, kindTxn: txn} {
		b.Run(k.String(), func(b *testing.B) {
			entries := []*raftpb.Entry{batchOf(k, mustMarshal(b, m))}
			b.ReportAllocs()
			for b.Loop() {
				if err := a.checkProposal(entries); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func entriesOf(data ...[]byte) (entries []*raftpb.Entry) {
	for _, d := range data {
		entries = append(entries, &raftpb.Entry{Data: d})
	}
	return entries
}
