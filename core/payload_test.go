package core

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
	"weir/core/mvcc"
)

// payload is a request as it is in the log.
type payload struct {
	kind    kind
	message proto.Message
}

func (p payload) entry(t testing.TB) []byte {
	return appendEntryRequest(appendEntryHeader(nil, 1), p.kind, auth.Identity{}, mustMarshal(t, p.message))
}

// txnOf is a transaction of these operations: range requests, puts, deletions and transactions.
func txnOf(requests ...proto.Message) *pb.TxnRequest {
	t := &pb.TxnRequest{}
	for _, r := range requests {
		op := &pb.RequestOp{}
		switch r := r.(type) {
		case *pb.RangeRequest:
			op.Request = &pb.RequestOp_RequestRange{RequestRange: r}
		case *pb.PutRequest:
			op.Request = &pb.RequestOp_RequestPut{RequestPut: r}
		case *pb.DeleteRangeRequest:
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}
		case *pb.TxnRequest:
			op.Request = &pb.RequestOp_RequestTxn{RequestTxn: r}
		}
		t.Success = append(t.Success, op)
	}
	return t
}

// badPayloads can be decoded, but not be carried out, or not be read again.
func badPayloads() map[string]payload {
	notTaken := &pb.TxnRequest{Failure: txnOf(&pb.RangeRequest{Key: []byte("k"), SortTarget: -1}).Success}
	return map[string]payload{
		"no version":               {kindClusterVersion, &membershippb.ClusterVersionSetRequest{}},
		"no version to go down to": {kindDowngrade, &membershippb.DowngradeInfoSetRequest{Enabled: true, Ver: "x"}},
		"an unknown order":         {kindTxn, txnOf(&pb.RangeRequest{Key: []byte("k"), SortOrder: 9})},
		"an unknown target, nested, in a branch that is not taken": {kindTxn, txnOf(notTaken)},
	}
}

// What no member would let another put into the log does not end those in whose log it is.
func TestWhatCannotBeCarriedOutIsRefusedByAllThatApplyIt(t *testing.T) {
	c := newCluster(t, 3)
	leads := c.leader()
	leader := c.members[leads].node
	for name, bad := range badPayloads() {
		_, err := leader.proposeAs(t.Context(), bad.kind, auth.Identity{}, bad.message)
		if status.Code(err) != codes.InvalidArgument {
			t.Fatalf("%s: %v, want InvalidArgument", name, err)
		}
	}
	c.put(leads, "k", "v")
	c.wantAll("k", "v")
	c.wantSame()
	c.restartAll()
	c.wantAll("k", "v")
}

// oddPayloads can be carried out, though no client's request looks so.
func oddPayloads() []payload {
	k := []byte("k")
	return []payload{
		{kindPut, &pb.PutRequest{}},
		{kindPut, &pb.PutRequest{Key: k, Lease: -1}},
		{kindPut, &pb.PutRequest{Key: k, Lease: 1, IgnoreLease: true, IgnoreValue: true, Value: k}},
		{kindDeleteRange, &pb.DeleteRangeRequest{}},
		{kindDeleteRange, &pb.DeleteRangeRequest{RangeEnd: []byte{0}, PrevKv: true}},
		{kindTxn, &pb.TxnRequest{Success: []*pb.RequestOp{{}}}},
		{kindTxn, txnOf(&pb.RangeRequest{}, &pb.TxnRequest{}, &pb.PutRequest{})},
		{kindTxn, txnOf(&pb.RangeRequest{Key: k, Revision: -7, Limit: -4})},
		{kindTxn, txnOf(&pb.RangeRequest{Key: k, Revision: -1, SortOrder: 2, SortTarget: 4, KeysOnly: true, CountOnly: true})},
		{kindTxn, &pb.TxnRequest{Compare: []*pb.Compare{{Key: k, Result: 9, Target: 9}, {Key: k, RangeEnd: []byte{0}, Target: pb.Compare_LEASE}}}},
		{kindTxn, txnOf(&pb.PutRequest{Key: k, Lease: 1}, &pb.PutRequest{Key: k}, &pb.PutRequest{Key: k, Lease: 1, PrevKv: true})},
		{kindTxn, txnOf(&pb.PutRequest{Key: k}, &pb.DeleteRangeRequest{Key: k}, &pb.PutRequest{Key: k, IgnoreLease: true})},
		{kindTxn, txnOf(txnOf(&pb.PutRequest{Key: []byte("n"), Lease: 1}), &pb.DeleteRangeRequest{Key: []byte("n"), PrevKv: true})},
		{kindCompact, &pb.CompactionRequest{}},
		{kindCompact, &pb.CompactionRequest{Revision: -9}},
		{kindCompact, &pb.CompactionRequest{Revision: 2, Physical: true}},
		{kindLeaseGrant, &pb.LeaseGrantRequest{}},
		{kindLeaseGrant, &pb.LeaseGrantRequest{ID: -1, TTL: -5}},
		{kindLeaseRevoke, &pb.LeaseRevokeRequest{ID: 1}},
		{kindAlarm, &pb.AlarmRequest{Action: 9, Alarm: 9}},
		{kindAlarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: 9}},
		{kindAlarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: -1, MemberID: 1 << 63}},
		{kindAlarm, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE}},
		{kindMemberAttr, &membershippb.ClusterMemberAttrSetRequest{}},
		{kindMemberAttr, &membershippb.ClusterMemberAttrSetRequest{Member_ID: 7, MemberAttributes: &membershippb.Attributes{Name: "\x00", ClientUrls: []string{"", "x"}}}},
		{kindClusterVersion, &membershippb.ClusterVersionSetRequest{Ver: "99.0.0-a.b+c"}},
		{kindDowngrade, &membershippb.DowngradeInfoSetRequest{Ver: "x"}},
		{kindDowngrade, &membershippb.DowngradeInfoSetRequest{Ver: "03.6.0", Enabled: true}},
		{kindAuthenticate, &pb.InternalAuthenticateRequest{Name: "root", SimpleToken: "t"}},
		{kindAuthEnable, &pb.AuthEnableRequest{}},
		{kindAuthDisable, &pb.AuthDisableRequest{}},
		{kindUserAdd, &pb.AuthUserAddRequest{}},
		{kindUserAdd, &pb.AuthUserAddRequest{Name: "v", HashedPassword: "%%"}},
		{kindUserDelete, &pb.AuthUserDeleteRequest{Name: "root"}},
		{kindUserChangePassword, &pb.AuthUserChangePasswordRequest{Name: "root"}},
		{kindUserGrantRole, &pb.AuthUserGrantRoleRequest{User: "root", Role: "r"}},
		{kindUserRevokeRole, &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"}},
		{kindRoleAdd, &pb.AuthRoleAddRequest{Name: strings.Repeat("r", 40<<10)}},
		{kindRoleDelete, &pb.AuthRoleDeleteRequest{Role: "root"}},
		{kindRoleGrantPermission, &pb.AuthRoleGrantPermissionRequest{Name: "r"}},
		{kindRoleGrantPermission, &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{PermType: 9, Key: k}}},
		{kindRoleRevokePermission, &pb.AuthRoleRevokePermissionRequest{Role: "r"}},
	}
}

// replica is what applies entries, without a log and without others.
type replica struct {
	*testing.T
	path string
	n    *Node
	last uint64 // index of the last entry
}

// newReplica makes one that holds something of each kind. Authentication is on or off.
func newReplica(t *testing.T, authenticates bool) *replica {
	t.Helper()
	r := &replica{T: t, path: filepath.Join(t.TempDir(), "store"), last: 1}
	r.open()
	tx := r.n.store.Begin(r.last, 1)
	if err := (memberRecord{ID: 7}).put(tx); err != nil {
		t.Fatal(err)
	}
	tx.End()
	r.reopen()
	noPassword := &authpb.UserAddOptions{NoPassword: true}
	for _, p := range []payload{
		{kindLeaseGrant, &pb.LeaseGrantRequest{ID: 1, TTL: 100}},
		{kindPut, &pb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: 1}},
		{kindPut, &pb.PutRequest{Key: []byte("n")}},
		{kindRoleAdd, &pb.AuthRoleAddRequest{Name: "root"}},
		{kindRoleAdd, &pb.AuthRoleAddRequest{Name: "r"}},
		{kindUserAdd, &pb.AuthUserAddRequest{Name: "root", Options: noPassword}},
		{kindUserGrantRole, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}},
	} {
		r.apply(p.entry(t))
	}
	if authenticates {
		r.apply(payload{kindAuthEnable, &pb.AuthEnableRequest{}}.entry(t))
	}
	return r
}

func (r *replica) open() {
	r.Helper()
	cfg, err := Config{DataDir: filepath.Dir(r.path)}.withDefaults()
	if err != nil {
		r.Fatal(err)
	}
	cheapPasswords(&cfg)
	r.n = &Node{cfg: cfg, logger: cfg.Logger, queue: newRequestQueue(1), metrics: newNodeMetrics()}
	if r.n.store, err = mvcc.Open(r.path, mvcc.Options{NoSync: true, CompactionSleep: 1}); err != nil {
		r.Fatal(err)
	}
	readState(r.T, r.n)
}

func (r *replica) close() {
	r.Helper()
	if err := r.n.store.Commit(); err != nil {
		r.Error(err)
	}
	r.n.hub.Close()
	if err := r.n.closeFiles(); err != nil {
		r.Error(err)
	}
}

func (r *replica) reopen() {
	r.Helper()
	r.close()
	r.open()
}

// apply applies an entry as Node.apply does, and waits for what compactions delete.
func (r *replica) apply(data []byte) {
	r.Helper()
	r.last++
	tx := r.n.store.Begin(r.last, 1)
	_, results, err := r.n.applyBatch(tx, data)
	if err != nil {
		tx.Fail(err)
		r.Fatalf("the member has ended: %v", err)
	}
	tx.End()
	for _, res := range results {
		if res.physical == nil {
			continue
		}
		select {
		case <-res.physical:
		case <-time.After(30 * time.Second):
			r.Fatal("the compaction does not end")
		}
	}
}

// state is all that the replica holds and knows, in words.
func (r *replica) state() string {
	r.Helper()
	n := r.n
	all, err := n.store.Range([]byte{}, []byte{0}, mvcc.RangeOptions{})
	if err != nil {
		r.Fatal(err)
	}
	hash, _, err := n.store.ComputeHash(r.Context(), 0)
	if err != nil {
		r.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "keys %q\nhash %v\nalarms %v\nmembers %v\nlevel %d\n", all.KVs, hash, n.alarms.list(pb.AlarmType_NONE), n.members.records(), n.agreement.level())
	current, downgrade := n.version.get()
	fmt.Fprintf(&b, "version %v, downgrade %v\nusers %q, revision %d, on %v\n", current, downgrade, n.auth.Users(), n.auth.Revision(), n.auth.Enabled())
	for _, name := range n.auth.Users() {
		roles, err := n.auth.User(name)
		fmt.Fprintf(&b, "user %q: %q %v\n", name, roles, err)
	}
	for _, name := range n.auth.Roles() {
		permissions, err := n.auth.Role(name)
		fmt.Fprintf(&b, "role %q: %v %v\n", name, permissions, err)
	}
	for _, id := range slices.Sorted(slices.Values(n.leases.Leases())) {
		fmt.Fprintf(&b, "lease %d: %q\n", id, n.leases.Keys(id))
	}
	return b.String()
}

// Whatever a proposal is, reading through it does not end the leader, and what it lets pass no member ends at, neither
// when it is applied nor when the member starts again, and it knows the same then.
func FuzzCheckProposal(f *testing.F) {
	for k := range kinds {
		f.Add(appendEntryRequest(appendEntryHeader(nil, 1), k, auth.Identity{}, nil), false)
	}
	for _, p := range oddPayloads() {
		entry := p.entry(f)
		f.Add(entry, false)
		f.Add(appendEntryRequest(appendEntryHeader(nil, 1), p.kind, auth.Identity{User: "root", Revision: 8}, mustMarshal(f, p.message)), true)
	}
	for _, p := range badPayloads() {
		f.Add(p.entry(f), false)
	}
	a := &agreement{highest: newestLevel}
	a.agreed.Store(newestLevel)
	f.Fuzz(func(t *testing.T, data []byte, authenticates bool) {
		if len(data) == 0 || a.checkProposal(entriesOf(data)) != nil {
			return
		}
		r := newReplica(t, authenticates)
		defer func() { r.close() }()
		r.apply(data)
		r.apply(data)
		before := r.state()
		r.reopen()
		if after := r.state(); after != before {
			t.Errorf("started again it knows\n%s\nand before\n%s", after, before)
		}
		r.n.version.wanted()
	})
}
