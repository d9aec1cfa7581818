package core

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
)

// goldenEntries are the data of entries of level 1, one of each kind of request, asked for by nobody and by a user, and a change of the
// membership.
func goldenEntries(t *testing.T) map[string][]byte {
	alice := auth.Identity{User: "alice", Revision: 300}
	key, end, name := []byte("key"), []byte("kez"), "name"
	requests := map[kind]any{
		kindPut:             &pb.PutRequest{Key: key, Value: []byte("value"), Lease: 5, PrevKv: true, IgnoreValue: true, IgnoreLease: true},
		kindDeleteRange:     &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: true},
		kindTxn:             &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: 9}}}, Success: txnOf(&pb.PutRequest{Key: key}).Success, Failure: txnOf(&pb.RangeRequest{Key: key}).Success},
		kindCompact:         &pb.CompactionRequest{Revision: 300, Physical: true},
		kindLeaseGrant:      &pb.LeaseGrantRequest{ID: 5, TTL: 60},
		kindLeaseRevoke:     &pb.LeaseRevokeRequest{ID: 5},
		kindAlarm:           &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_CORRUPT},
		kindLeaseExpire:     &pb.LeaseRevokeRequest{ID: 5},
		kindLeaseCheckpoint: leaseCheckpoints{{ID: 5, Remaining: 300, Granted: 7}, {ID: 1 << 62}},

		kindAuthEnable:           &pb.AuthEnableRequest{},
		kindAuthDisable:          &pb.AuthDisableRequest{},
		kindAuthenticate:         &pb.InternalAuthenticateRequest{Name: name, SimpleToken: "token"},
		kindUserAdd:              &pb.AuthUserAddRequest{Name: name, HashedPassword: "aGFzaA==", Options: &authpb.UserAddOptions{NoPassword: true}},
		kindUserDelete:           &pb.AuthUserDeleteRequest{Name: name},
		kindUserChangePassword:   &pb.AuthUserChangePasswordRequest{Name: name, HashedPassword: "aGFzaA=="},
		kindUserGrantRole:        &pb.AuthUserGrantRoleRequest{User: name, Role: "role"},
		kindUserRevokeRole:       &pb.AuthUserRevokeRoleRequest{Name: name, Role: "role"},
		kindRoleAdd:              &pb.AuthRoleAddRequest{Name: "role"},
		kindRoleDelete:           &pb.AuthRoleDeleteRequest{Role: "role"},
		kindRoleGrantPermission:  &pb.AuthRoleGrantPermissionRequest{Name: "role", Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: key, RangeEnd: end}},
		kindRoleRevokePermission: &pb.AuthRoleRevokePermissionRequest{Role: "role", Key: key, RangeEnd: end},

		kindClusterVersion: &membershippb.ClusterVersionSetRequest{Ver: "3.7.0"},
		kindDowngrade:      &membershippb.DowngradeInfoSetRequest{Enabled: true, Ver: "3.6.0"},
		kindMemberAttr:     &membershippb.ClusterMemberAttrSetRequest{Member_ID: 7, MemberAttributes: &membershippb.Attributes{Name: name, ClientUrls: []string{"http://a:2379"}}},
		kindLevel:          &levelRaise{Level: 2, Members: []uint64{7, 8}},
	}
	entries := map[string][]byte{}
	for k, info := range kinds {
		if info.level != 1 {
			continue
		}
		if requests[k] == nil {
			t.Fatalf("there is no %v", k)
		}
		var payload []byte
		switch r := requests[k].(type) {
		case proto.Message:
			payload = mustMarshal(t, r)
		case leaseCheckpoints:
			payload = r.encode()
		case *levelRaise:
			var err error
			if payload, err = json.Marshal(r); err != nil {
				t.Fatal(err)
			}
		}
		entry := appendEntryHeader(nil, 0x0102030405060708)
		entry = appendEntryRequest(entry, k, auth.Identity{}, payload)
		entries[k.String()] = appendEntryRequest(entry, k, alice, payload)
	}
	change := confChange{
		Type: raftpb.ConfChangeAddLearnerNode, MaxLearners: 1,
		Member: memberRecord{ID: 7, PeerURLs: []string{"http://a:2380"}, IsLearner: true, Name: name, ClientURLs: []string{"http://a:2379"}},
	}
	data, err := change.encode(9)
	if err != nil {
		t.Fatal(err)
	}
	entries["membership"] = data
	return entries
}

// What is in a log every later weir must read, and two members must take for the same. So what is written is not changed: what is to be
// otherwise gets a kind, and a level, of its own.
func TestEntriesOfLevel1StayAsTheyAre(t *testing.T) {
	file, err := os.Open("testdata/level1.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	golden := map[string][]byte{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, data, ok := strings.Cut(lines.Text(), " ")
		if !ok || name == "#" {
			continue
		}
		if golden[name], err = hex.DecodeString(data); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	entries := goldenEntries(t)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if !bytes.Equal(golden[name], entries[name]) {
			t.Errorf("%s is written as %x, want %x", name, entries[name], golden[name])
		}
	}
	for name, data := range golden {
		if entries[name] == nil {
			t.Errorf("%s is no kind of entry", name)
		}
		if err := readGolden(name, data); err != nil {
			t.Errorf("%s cannot be read: %v", name, err)
		}
	}
}

func readGolden(name string, data []byte) error {
	if name == "membership" {
		_, _, err := decodeConfChange(data)
		return err
	}
	_, rest, err := readEntryHeader(data)
	for err == nil && len(rest) > 0 {
		var k kind
		var payload []byte
		if k, _, payload, rest, err = readEntryRequest(rest); err == nil {
			_, err = decode(k, payload, 1)
		}
	}
	return err
}
