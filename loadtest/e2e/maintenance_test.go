package e2e

import (
	"crypto/sha256"
	"io"
	"net/http"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func maintenanceCases() []testCase {
	return []testCase{
		{"MemberListNamesTheMember", memberListNamesTheMember},
		{"StatusOfTheMember", statusOfTheMember},
		{"AlarmListIsEmpty", alarmListIsEmpty},
		{"HeadersNameOneClusterAndMember", headersNameOneClusterAndMember},
		{"HashKVIsOfARevision", hashKVIsOfARevision},
		{"HashChangesWithTheStore", hashChangesWithTheStore},
		{"SnapshotIsWholeAndSealed", snapshotIsWholeAndSealed},
		{"DefragmentKeepsEverything", defragmentKeepsEverything},
		{"HTTPSaysHealthAndVersion", httpSaysHealthAndVersion},
	}
}

func memberListNamesTheMember(f *fixture) {
	for _, linearizable := range []bool{true, false} {
		r, err := pb.NewClusterClient(f.conn).MemberList(f.ctx, &pb.MemberListRequest{Linearizable: linearizable})
		f.must(err)
		want(f, "members", len(r.Members), max(1, f.target.Kind.Members()))
		answered := false
		for _, m := range r.Members {
			if m.ID == 0 || m.Name == "" || len(m.PeerURLs) == 0 || len(m.ClientURLs) == 0 {
				f.Errorf("member lacks something: %v", m)
			}
			want(f, "learner", m.IsLearner, false)
			answered = answered || m.ID == r.Header.MemberId
		}
		want(f, "member of the header is listed", answered, true)
	}
}

func statusOfTheMember(f *fixture) {
	rev := f.put("a", "1").Header.Revision
	r, err := f.client.Status(f.ctx, f.target.Endpoint)
	f.must(err)
	want(f, "revision", r.Header.Revision, rev)
	if f.target.Kind.Members() <= 1 {
		want(f, "leader", r.Leader, r.Header.MemberId)
	} else if r.Leader == 0 {
		f.Error("there is no leader")
	}
	want(f, "learner", r.IsLearner, false)
	want(f, "errors", strings.Join(r.Errors, ", "), "")
	want(f, "term", r.RaftTerm, r.Header.RaftTerm)
	if r.RaftTerm == 0 || r.RaftAppliedIndex == 0 || r.RaftIndex < r.RaftAppliedIndex || r.Version == "" {
		f.Errorf("status lacks something: %v", r)
	}
	if r.DbSizeInUse <= 0 || r.DbSize < r.DbSizeInUse {
		f.Errorf("size %d, of which %d in use", r.DbSize, r.DbSizeInUse)
	}
	if f.target.Kind.API() >= 6 {
		want(f, "quota", r.DbSizeQuota, 2<<30)
	}
}

func alarmListIsEmpty(f *fixture) {
	r, err := f.client.AlarmList(f.ctx)
	f.must(err)
	want(f, "alarms", len(r.Alarms), 0)
}

func headersNameOneClusterAndMember(f *fixture) {
	put := f.put("a", "1").Header
	get := f.get("a").Header
	watch := f.watchStream().create(&pb.WatchCreateRequest{Key: f.bytes("a")}).Header
	grant, err := pb.NewLeaseClient(f.conn).LeaseGrant(f.ctx, &pb.LeaseGrantRequest{TTL: 1000})
	f.must(err)
	for _, h := range []*pb.ResponseHeader{put, get, watch, grant.Header} {
		if h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 {
			f.Errorf("header lacks something: %v", h)
		}
		want(f, "cluster", h.ClusterId, put.ClusterId)
		want(f, "member", h.MemberId, put.MemberId)
		want(f, "term", h.RaftTerm, put.RaftTerm)
	}
}

func hashKVIsOfARevision(f *fixture) {
	hash := func(rev int64) *clientv3.HashKVResponse {
		r, err := f.client.HashKV(f.ctx, f.target.Endpoint, rev)
		f.must(err)
		return r
	}
	rev := f.put("a", "1").Header.Revision
	first := hash(0)
	want(f, "revision of the header", first.Header.Revision, rev)
	f.put("a", "2")
	if second := hash(0); second.Hash == first.Hash {
		f.Error("another store, the same hash")
	}
	again := hash(rev)
	want(f, "hash of the past", again.Hash, first.Hash)
	want(f, "compact revision", again.CompactRevision, first.CompactRevision)
	if f.target.Kind.API() >= 6 {
		want(f, "hash revision", again.HashRevision, rev)
	}
}

func hashChangesWithTheStore(f *fixture) {
	hash := func() uint32 {
		r, err := pb.NewMaintenanceClient(f.conn).Hash(f.ctx, &pb.HashRequest{})
		f.must(err)
		return r.Hash
	}
	f.put("a", "1")
	first := hash()
	f.put("a", "2")
	if hash() == first {
		f.Error("another store, the same hash")
	}
}

func snapshotIsWholeAndSealed(f *fixture) {
	f.put("a", "1")
	s, err := pb.NewMaintenanceClient(f.conn).Snapshot(f.ctx, &pb.SnapshotRequest{})
	f.must(err)
	var all []byte
	var remaining uint64
	for first := true; ; first = false {
		r, err := s.Recv()
		if err == io.EOF {
			break
		}
		f.must(err)
		if !first && r.RemainingBytes > remaining {
			f.Errorf("remaining bytes grew from %d to %d", remaining, r.RemainingBytes)
		}
		remaining = r.RemainingBytes
		all = append(all, r.Blob...)
	}
	want(f, "remaining at the end", remaining, 0)
	if len(all)%512 != sha256.Size {
		f.Fatalf("a snapshot of %d bytes is not a file with a SHA-256 behind it", len(all))
	}
	file, seal := all[:len(all)-sha256.Size], all[len(all)-sha256.Size:]
	want(f, "SHA-256", [sha256.Size]byte(seal), sha256.Sum256(file))
}

func defragmentKeepsEverything(f *fixture) {
	f.put("a", "1")
	hash := func() uint32 {
		r, err := f.client.HashKV(f.ctx, f.target.Endpoint, 0)
		f.must(err)
		return r.Hash
	}
	before, watch := hash(), f.watch("a")
	_, err := f.client.Defragment(f.ctx, f.target.Endpoint)
	f.must(err)
	want(f, "hash", hash(), before)
	f.put("a", "2")
	f.wantEvents(watch, "PUT a=2")
	f.wantPairs(f.get("a").Kvs, "a=2")
}

// What load balancers and scripts ask over HTTP, on the same port.
func httpSaysHealthAndVersion(f *fixture) {
	for path, part := range map[string]string{
		"/health":  `{"health":"true"`,
		"/readyz":  "ok",
		"/livez":   "ok",
		"/version": `"etcdserver":"3.`,
	} {
		req, err := http.NewRequestWithContext(f.ctx, http.MethodGet, "http://"+f.target.Endpoint+path, nil)
		f.must(err)
		r, err := http.DefaultClient.Do(req)
		f.must(err)
		body, err := io.ReadAll(r.Body)
		f.must(err)
		f.must(r.Body.Close())
		want(f, "status of "+path, r.StatusCode, http.StatusOK)
		if !strings.Contains(string(body), part) {
			f.Errorf("%s says %.200q, which lacks %q", path, body, part)
		}
	}
}
