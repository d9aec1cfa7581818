package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"weir/loadtest/crash"
	"weir/loadtest/linearizable"
	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// quick has a new leader elected in half a second, and the log cut so often that a member that was away for a while needs
// a snapshot.
var quick = []string{"--heartbeat-interval=50", "--election-timeout=500", "--snapshot-count=200", "--snapshot-catchup-entries=50"}

// members is how many there are: the fewest of which one may fail.
const members = 3

// scene is a cluster with clients at each of its members, who write and read during a round and watch all the time.
type scene struct {
	*targettest.Site
	rng    *rand.Rand
	conns  []*grpc.ClientConn // to each member
	faults map[string]int     // what was done, and how often

	ledger  *crash.Ledger // of writers, each of whom has keys of its own
	writers int           // so many there were

	load        *linearizable.Load // clients who share keys
	truth       *linearizable.Follower
	compactions []linearizable.Compaction

	watches  []watch
	seen     int64 // the revision up to which watches have been compared
	watching context.Context
	stop     func() // ends the watches
	watchers sync.WaitGroup
}

// watch is one that lives through all rounds.
type watch struct {
	*crash.Watcher
	at *target.Member // nil for any
}

func (w watch) String() string {
	if w.at == nil {
		return "watch of etcd's client"
	}
	return "watch at " + w.at.Name
}

func newScene(t *testing.T, kind target.Kind, o targettest.SiteOptions) *scene {
	t.Helper()
	o.Members, o.MemberArgs = members, append(slices.Clone(quick), o.MemberArgs...)
	s := &scene{Site: targettest.NewSite(t, bin, kind, o), rng: targettest.Random(t, *seed), faults: map[string]int{}, ledger: crash.NewLedger()}
	s.beginLoad()
	s.beginWatches()
	return s
}

func (s *scene) beginLoad() {
	s.Helper()
	s.load = linearizable.NewLoad(rand.New(rand.NewPCG(s.rng.Uint64(), 0)))
	for _, m := range s.Cluster.Members {
		s.goTo(m)
	}
	s.Cleanup(func() {
		for _, conn := range s.conns {
			s.Must(conn.Close())
		}
		s.Must(s.load.Close())
	})
	var err error
	s.truth, err = linearizable.Follow(s.Cluster.Endpoints())
	s.Must(err)
	s.Cleanup(s.truth.Close)
}

// goTo lets clients go to a member.
func (s *scene) goTo(m *target.Member) *grpc.ClientConn {
	s.Helper()
	conn, err := target.Dial(m.Addr)
	s.Must(err)
	s.conns = append(s.conns, conn)
	s.Must(s.load.Add(m.Name, m.Addr, false))
	return conn
}

func (s *scene) beginWatches() {
	s.Helper()
	s.watching, s.stop = context.WithCancel(s.Ctx)
	client, err := clientv3.New(clientv3.Config{Endpoints: s.Cluster.Endpoints(), Logger: zap.NewNop()})
	s.Must(err)
	s.Cleanup(func() {
		s.stop()
		s.watchers.Wait()
		_ = client.Close() // with the error of the context
	})
	s.watch(nil, func(w *crash.Watcher) { w.FollowWithClient(s.watching, client) })
	for i, m := range s.Cluster.Members {
		s.watchAt(m, s.conns[i])
	}
}

func (s *scene) watchAt(m *target.Member, conn *grpc.ClientConn) {
	s.watch(m, func(w *crash.Watcher) { w.Follow(s.watching, conn) })
}

func (s *scene) watch(at *target.Member, follow func(*crash.Watcher)) {
	w := watch{crash.NewWatcher(s.seen), at}
	s.watches = append(s.watches, w)
	s.watchers.Go(func() { follow(w.Watcher) })
}

// awaitEnd waits until a process has ended by itself, and returns the last line that it has said.
func awaitEnd(t testing.TB, who string, p *proc.Process) (last string) {
	t.Helper()
	select {
	case <-p.Exited():
	case <-time.After(time.Minute):
		t.Fatalf("%s does not end:\n%s", who, p.Log())
	}
	lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
	return lines[len(lines)-1]
}

// writersEach is how many write at each member.
const writersEach = 2

// round lets clients work while harm is done and mended, and a little longer, and checks what they were told. A round
// whose harm had no effect on anybody proves nothing, but all of them together must have had some: see finish.
func (s *scene) round(what string, harm func()) {
	s.Helper()
	begun := time.Now()
	working, stop := context.WithCancel(s.Ctx)
	defer stop()
	var wg sync.WaitGroup
	for _, conn := range s.conns {
		for range writersEach {
			s.writers++
			id := s.writers
			wg.Go(func() { s.ledger.Write(working, conn, id) })
		}
	}
	wg.Go(func() { s.load.Run(working) })
	s.pause(300 * time.Millisecond)
	if s.rng.IntN(2) == 0 {
		s.compact()
	}
	harm()
	if err := s.Cluster.WaitReady(s.Ctx); err != nil {
		s.Fatalf("after %s: %v", what, err)
	}
	s.pause(100 * time.Millisecond)
	stop()
	wg.Wait()
	s.faults[what]++
	worked := time.Now()
	s.check(what)
	if s.Failed() {
		s.FailNow()
	}
	s.Logf("%s: %v, and %v to check", what, worked.Sub(begun).Round(time.Millisecond), time.Since(worked).Round(time.Millisecond))
}

// pause waits for a random time. Nothing is expected to happen meanwhile: the moment when it ends is the point.
func (s *scene) pause(below time.Duration) { time.Sleep(time.Duration(s.rng.Int64N(int64(below)))) }

// compact forgets what all watches have seen. It is under way in the members when harm comes to them.
func (s *scene) compact() {
	c := linearizable.Compaction{Revision: min(s.seen, s.truth.Newest()) - s.rng.Int64N(50), Call: s.load.Now()}
	if c.Revision <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.Ctx, time.Second)
	defer cancel()
	if _, err := pb.NewKVClient(s.conns[s.rng.IntN(members)]).Compact(ctx, &pb.CompactionRequest{Revision: c.Revision}); err == nil {
		c.Return = s.load.Now()
	}
	s.compactions = append(s.compactions, c) // it may have been done although it failed
}

// check compares what the members have with what clients were told, and with each other.
func (s *scene) check(after string) {
	s.Helper()
	// Who answers a linearizable read has applied all that was acknowledged; and all have the same, or the hashes tell.
	i := s.rng.IntN(members)
	wrong, err := s.ledger.Check(s.Ctx, s.conns[i])
	s.Must(err)
	for n, w := range wrong {
		if n == 20 {
			s.Errorf("after %s, %s: and %d more", after, s.Cluster.Members[i].Name, len(wrong)-n)
			break
		}
		s.Errorf("after %s, %s: %s", after, s.Cluster.Members[i].Name, w)
	}
	newest := s.revision(i)
	s.checkHashes(after, newest)
	s.compareWatches(after, newest)
}

// revision is the newest that a member knows, which is all that was acknowledged.
func (s *scene) revision(member int) int64 {
	s.Helper()
	r, err := pb.NewKVClient(s.conns[member]).Range(s.Ctx, &pb.RangeRequest{Key: []byte("any"), CountOnly: true})
	s.Must(err)
	return r.Header.Revision
}

// checkHashes compares the hashes of all revisions up to the newest.
func (s *scene) checkHashes(after string, newest int64) {
	s.Helper()
	var first *pb.HashKVResponse
	for i, conn := range s.conns {
		s.revision(i) // waits until it has all
		h, err := pb.NewMaintenanceClient(conn).HashKV(s.Ctx, &pb.HashKVRequest{Revision: newest})
		s.Must(err)
		if first == nil {
			first = h
		}
		if h.Hash != first.Hash || h.HashRevision != first.HashRevision || h.CompactRevision != first.CompactRevision {
			s.Errorf("after %s: the hash of %s is %v, and of %s %v", after, s.Cluster.Members[i].Name, h, s.Cluster.Members[0].Name, first)
		}
	}
}

// compareWatches compares what each watch has seen in this round with what a new one sees in the members' history.
func (s *scene) compareWatches(after string, newest int64) {
	s.Helper()
	if newest == s.seen {
		return
	}
	want := s.history(newest)
	for _, w := range s.watches {
		got, err := w.Take(s.Ctx, newest)
		if err != nil {
			s.Errorf("after %s, %v: %v", after, w, err)
			continue
		}
		if i := differ(got, want); i >= 0 {
			s.Errorf("after %s, %v: event %d of %d differs from history, which has %d: %q, want %q", after, w, i, len(got), len(want), at(got, i), at(want, i))
		}
	}
	s.seen = newest
}

// history is what a new watch at one of the members sees of what happened since the last comparison.
func (s *scene) history(newest int64) []string {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Ctx)
	w, conn := crash.NewWatcher(s.seen), s.conns[s.rng.IntN(members)]
	var following sync.WaitGroup
	following.Go(func() { w.Follow(ctx, conn) })
	defer following.Wait()
	defer cancel()
	events, err := w.Take(ctx, newest)
	s.Must(err)
	return events
}

// differ is the first place at which two lists differ; below 0 if none.
func differ(a, b []string) int {
	for i := range max(len(a), len(b)) {
		if at(a, i) != at(b, i) {
			return i
		}
	}
	return -1
}

func at(s []string, i int) string {
	if i < len(s) {
		return s[i]
	}
	return "nothing"
}

// finish compares what clients were told in all rounds with what one store could have told them.
func (s *scene) finish() {
	s.Helper()
	tried, acknowledged := s.ledger.Size()
	snapshots := 0
	for _, m := range s.Cluster.Members {
		snapshots += strings.Count(m.Log(), `"received a snapshot"`)
	}
	s.Logf("%v; %d keys written, %d acknowledged; %d compactions, %d snapshots between members", s.faults, tried, acknowledged, len(s.compactions), snapshots)
	v, err := s.load.Judge(s.Ctx, s.truth, linearizable.Promises{Compactions: s.compactions})
	s.Must(err)
	s.Log(v.Summary)
	if acknowledged == 0 || acknowledged == tried && v.Unanswered == 0 {
		s.Errorf("%d of %d writes acknowledged, and all other requests answered: the test proves nothing", acknowledged, tried)
	}
	logs := map[string]string{}
	for _, m := range s.Cluster.Members {
		logs[m.Name] = m.Log()
	}
	wrong, err := v.Errors(logs)
	for _, w := range wrong {
		s.Error(w)
	}
	s.Must(err)
}

// leader is the place of the member that says it is the leader.
func (s *scene) leader() int {
	s.Helper()
	return leader(s.Site, s.conns)
}

// leader finds it among members by asking each of them.
func leader(s *targettest.Site, conns []*grpc.ClientConn) int {
	s.Helper()
	found := -1
	s.Eventually(30*time.Second, "a leader", func() error {
		for i, conn := range conns {
			ctx, cancel := context.WithTimeout(s.Ctx, time.Second)
			r, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
			cancel()
			if err == nil && r.Leader == r.Header.MemberId {
				found = i
				return nil
			}
		}
		return errors.New("nobody says so")
	})
	return found
}
