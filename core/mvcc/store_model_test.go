package mvcc

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"

	"weir/grpcapi/wire"
)

var seed = flag.Int64("seed", 1, "first seed of the random tests")

// TestStoreBehavesLikeModel runs random operations against the store and the model and compares every kind of read
// after each, across commits, crashes, restarts, compactions, defragmentations and replacements.
func TestStoreBehavesLikeModel(t *testing.T) {
	runs := 500
	if testing.Short() {
		runs = 100
	}
	dir := t.TempDir()
	for i := range runs {
		o := manual()
		if i%4 == 0 {
			o.mapSize = 1 << 15 // every commit has to shut readers out
		}
		run := modelRun{t: t, seed: *seed + int64(i), options: o, dir: filepath.Join(dir, fmt.Sprint(i))}
		run.rand = rand.New(rand.NewSource(run.seed))
		run.do(25)
		if t.Failed() {
			t.Fatalf("to repeat: go test ./core/mvcc -run %s -args -seed %d", t.Name(), run.seed)
		}
	}
}

type modelRun struct {
	t       *testing.T
	seed    int64
	rand    *rand.Rand
	options Options
	dir     string
	files   int

	path      string
	store     *Store
	model     *model
	committed *model // as of the last commit
	trace     []string
}

func (r *modelRun) do(steps int) {
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	defer os.RemoveAll(r.dir)
	r.path = r.newPath()
	r.store = mustOpen(r.t, r.path, r.options)
	r.model = newModel()
	r.committed = r.model.clone()
	for range steps {
		r.step()
		r.compare()
		if r.t.Failed() {
			r.t.Logf("after:\n%s", strings.Join(r.trace, "\n"))
			break
		}
	}
	if err := r.store.Close(); err != nil {
		r.t.Error(err)
	}
	checkFile(r.t, r.path)
	r.compareFile()
}

func (r *modelRun) newPath() string {
	r.files++
	return filepath.Join(r.dir, fmt.Sprint(r.files))
}

func (r *modelRun) note(format string, args ...any) {
	r.trace = append(r.trace, fmt.Sprintf(format, args...))
}

func (r *modelRun) key() string {
	return []string{"a", "ab", "abc", "b", "ba", "c", "d", "\xff"}[r.rand.Intn(8)]
}

func (r *modelRun) keyRange() (key, end string) {
	key = r.key()
	switch r.rand.Intn(4) {
	case 0:
		return key, ""
	case 1:
		return key, "\x00"
	case 2:
		return "\x00", "\x00"
	}
	return key, r.key() // often empty
}

func (r *modelRun) step() {
	switch n := r.rand.Intn(20); {
	case n < 12:
		r.entry()
	case n < 14:
		r.compact()
	case n < 16:
		r.note("commit")
		if err := r.store.Commit(); err != nil {
			r.t.Error(err)
		}
		r.committed = r.model.clone()
	case n < 17:
		r.note("defragment")
		if err := r.store.Defragment(); err != nil {
			r.t.Error(err)
		}
		r.committed = r.model.clone()
	case n < 18:
		r.reopen()
	case n < 19:
		r.install()
	default:
		r.crash()
	}
}

// install has the store replaced by what it would be if it had gone on, while it may have something that is not committed, and a
// compaction under way.
func (r *modelRun) install() {
	r.note("fork")
	other := save(r.t, r.store, r.newPath())
	r.committed = r.model.clone()
	s, path := r.store, r.path
	before := r.model.clone()
	r.store, r.path = mustOpen(r.t, other, r.options), other
	for range 1 + r.rand.Intn(3) {
		r.entry()
	}
	if r.rand.Intn(2) == 0 {
		r.compact()
	}
	file := save(r.t, r.store, filepath.Join(r.dir, "incoming"))
	fork, ahead := r.store, r.model
	r.note("what is lost")
	r.store, r.path, r.model = s, path, before
	if r.rand.Intn(2) == 0 && ahead.index > r.model.index {
		e := r.store.Begin(r.model.index+1, 7)
		e.Put(BucketAlarm, []byte("lost"), nil)
		e.End()
	}
	r.note("install")
	r.model, r.committed = ahead, ahead.clone()
	next, err := r.store.Load(r.t.Context(), file, ahead.index, 7)
	if err == nil {
		err = r.store.Install(next)
	}
	if err = errors.Join(err, fork.Close()); err != nil {
		r.t.Error(err)
	}
}

func (r *modelRun) entry() {
	r.model.index++
	e := r.store.Begin(r.model.index, 7)
	defer e.End()
	e.SetConfState(&raftpb.ConfState{Voters: []uint64{r.model.index}})
	r.note("entry %d", r.model.index)
	for range r.rand.Intn(4) {
		r.txn(e)
	}
	for b, content := range r.model.buckets {
		key := r.key()
		if r.rand.Intn(2) == 0 {
			content[key] = fmt.Sprint(r.model.index)
			e.Put(b, []byte(key), []byte(content[key]))
		} else {
			delete(content, key)
			e.Delete(b, []byte(key))
		}
	}
}

func (r *modelRun) txn(e *Entry) {
	txn, want := e.Txn(), r.model.txn()
	for range r.rand.Intn(5) {
		switch r.rand.Intn(3) {
		case 0:
			key, end := r.keyRange()
			if want.changed(key, end) {
				continue
			}
			deleted, rev := txn.DeleteRange([]byte(key), []byte(end))
			if n := want.deleteRange(key, end); n != deleted || rev != want.revision() {
				r.t.Errorf("delete [%q, %q): got %d at %d, want %d at %d", key, end, deleted, rev, n, want.revision())
			}
			r.note("  delete [%q, %q): %d", key, end, deleted)
		default:
			key, value, lease := r.key(), fmt.Sprint(r.rand.Intn(1000)), int64(r.rand.Intn(3))
			if want.state[key] == nil && want.m.states[want.m.rev][key] != nil || want.changed(key, "") {
				continue // deleted or put before
			}
			rev := txn.Put([]byte(key), []byte(value), lease)
			if want.put(key, value, lease); rev != want.revision() {
				r.t.Errorf("put %q: revision %d, want %d", key, rev, want.revision())
			}
			r.note("  put %q %q %d", key, value, lease)
		}
		key, end := r.keyRange()
		o := r.rangeOptions()
		got, err := txn.Range([]byte(key), []byte(end), o)
		expected, wantErr := want.rangeOf(key, end, o)
		r.sameRange("txn", key, end, o, got, err, expected, wantErr)
	}
	if !reflect.DeepEqual(txn.LeaseChanges(), want.leases) {
		r.t.Errorf("lease changes: got %v, want %v", txn.LeaseChanges(), want.leases)
	}
	rev, events := txn.Commit()
	want.commit()
	var got, expected strings.Builder
	writeEvents(&got, rev, events)
	wantEvents := make([]wire.Event, len(want.events))
	for i, e := range want.events {
		wantEvents[i] = e.wire()
	}
	if writeEvents(&expected, r.model.rev, wantEvents); got.String() != expected.String() {
		r.t.Errorf("commit: got\n%swant\n%s", got.String(), expected.String())
	}
	r.note("  revision %d", rev)
}

func (r *modelRun) compact() {
	rev := r.rand.Int63n(r.model.rev+3) - 1
	r.model.index++
	e := r.store.Begin(r.model.index, 7)
	e.SetConfState(&raftpb.ConfState{Voters: []uint64{r.model.index}})
	done, err := e.Compact(rev)
	e.End()
	r.note("compact %d: %v", rev, err)
	var want error
	switch {
	case rev <= r.model.compact:
		want = ErrCompacted
	case rev > r.model.rev:
		want = ErrFutureRev
	default:
		r.model.compact = rev
	}
	if !errors.Is(err, want) {
		r.t.Errorf("compact at %d: got %v, want %v", rev, err, want)
	}
	if done != nil {
		<-done
	}
	if err == nil {
		r.committed = r.model.clone()
	}
}

func (r *modelRun) reopen() {
	r.note("reopen")
	before := r.store.View()
	old := before.state.tree
	before.Close()
	if err := r.store.Close(); err != nil {
		r.t.Error(err)
	}
	r.compareFile()
	r.store = mustOpen(r.t, r.path, r.options)
	r.committed = r.model.clone()
	v := r.store.View()
	defer v.Close()
	r.sameIndex(v.state.tree, old)
}

// crash goes on with the file as it is now: everything after the last commit is lost.
func (r *modelRun) crash() {
	r.note("crash back to revision %d", r.committed.rev)
	path := r.newPath()
	copyFile(r.t, r.path, path)
	if err := r.store.Close(); err != nil {
		r.t.Error(err)
	}
	r.path, r.model = path, r.committed.clone()
	r.store = mustOpen(r.t, r.path, r.options)
}

func (r *modelRun) rangeOptions() RangeOptions {
	o := RangeOptions{
		Limit: max(0, r.rand.Int63n(8)-4), NoTotal: r.rand.Intn(4) == 0,
		CountOnly: r.rand.Intn(4) == 0, KeysOnly: r.rand.Intn(4) == 0,
	}
	if r.rand.Intn(2) == 0 {
		o.Revision = r.rand.Int63n(r.model.rev + 4)
	}
	return o
}

func (r *modelRun) compare() {
	s, m := r.store, r.model
	if s.Revision() != m.rev || s.CompactRevision() != m.compact {
		r.t.Errorf("revision %d compact %d, want %d %d", s.Revision(), s.CompactRevision(), m.rev, m.compact)
	}
	if a := s.Applied(); a.Index != r.committed.index || a.Index > 0 && (a.Term != 7 || a.ConfState.Voters[0] != a.Index) {
		r.t.Errorf("applied %v, want %d", a, r.committed.index)
	}
	v := s.View()
	defer v.Close()
	for range 4 {
		key, end := r.keyRange()
		o := r.rangeOptions()
		want, wantErr := m.rangeOf(key, end, o)
		got, err := s.Range([]byte(key), []byte(end), o)
		r.sameRange("store", key, end, o, got, err, want, wantErr)
		got, err = v.Range([]byte(key), []byte(end), o)
		r.sameRange("view", key, end, o, got, err, want, wantErr)
	}
	key, end := r.keyRange()
	for from := max(0, m.compact-1); from <= m.rev+1; from++ {
		r.sameHistory(key, end, from)
	}
	for rev := range m.rev + 2 {
		if got, want := s.Prev([]byte(key), rev), m.prev(key, rev); !bytes.Equal(got, want) {
			r.t.Errorf("prev of %q at %d: got %x, want %x", key, rev, got, want)
		}
	}
	r.sameLeases()
}

func (r *modelRun) sameRange(what, key, end string, o RangeOptions, got RangeResult, err error, want RangeResult, wantErr error) {
	if !errors.Is(err, wantErr) || !reflect.DeepEqual(got, want) {
		r.t.Errorf("%s: range [%q, %q) %+v: got %v %v, want %v %v", what, key, end, o, got, err, want, wantErr)
	}
}

func (r *modelRun) sameHistory(key, end string, from int64) {
	var got strings.Builder
	next, err := r.store.History([]byte(key), []byte(end), from, func(rev int64, events []wire.Event) bool {
		writeEvents(&got, rev, events)
		r.store.Prev(events[0].Key, rev) // a read inside of a read
		return true
	})
	want, wantErr := r.model.history(key, end, from)
	if !errors.Is(err, wantErr) || got.String() != want {
		r.t.Errorf("history of [%q, %q) from %d: got %v\n%swant %v\n%s", key, end, from, err, got.String(), wantErr, want)
	}
	if wantNext := max(from, r.model.rev+1); err == nil && next != wantNext {
		r.t.Errorf("history from %d: next is %d, want %d", from, next, wantNext)
	}
}

func (r *modelRun) sameLeases() {
	got, want := map[string]int64{}, map[string]int64{}
	if err := r.store.LeasedKeys(func(key []byte, lease int64) error { got[string(key)] = lease; return nil }); err != nil {
		r.t.Error(err)
	}
	for key, kv := range r.model.states[r.model.rev] {
		if kv.Lease != 0 {
			want[key] = kv.Lease
		}
	}
	if !reflect.DeepEqual(got, want) {
		r.t.Errorf("leased keys: got %v, want %v", got, want)
	}
}

// sameIndex compares the index that was built up with the one that was loaded.
func (r *modelRun) sameIndex(got, want *keyTree) {
	dump := func(t *keyTree) string {
		var out strings.Builder
		t.Scan(func(key string, k *keyIndex) bool {
			fmt.Fprintf(&out, "%q:", key)
			for i := range k.len() {
				fmt.Fprintf(&out, " %v", k.rev(i))
				if !k.rev(i).deleted() {
					fmt.Fprintf(&out, "%v", k.origin(i))
				}
			}
			out.WriteByte('\n')
			return true
		})
		return out.String()
	}
	if g, w := dump(got), dump(want); g != w {
		r.t.Errorf("index loaded from the file:\n%sbefore:\n%s", g, w)
	}
}

// compareFile compares what is in the file of the closed store.
func (r *modelRun) compareFile() {
	readFile(r.t, r.path, func(tx *bolt.Tx) {
		var got []string
		_ = tx.Bucket([]byte("key")).ForEach(func(k, _ []byte) error {
			got = append(got, string(k))
			return nil
		})
		if want := r.model.kept(); !slices.Equal(got, want) {
			r.t.Errorf("revisions in the file: got %x, want %x", got, want)
		}
		for b, want := range r.model.buckets {
			got := map[string]string{}
			_ = tx.Bucket([]byte(b.String())).ForEach(func(k, v []byte) error {
				got[string(k)] = string(v)
				return nil
			})
			if !reflect.DeepEqual(got, want) {
				r.t.Errorf("bucket %s: got %v, want %v", b, got, want)
			}
		}
	})
}
