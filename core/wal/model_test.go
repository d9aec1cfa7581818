package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

const testDir = "wal"

var testOptions = Options{SegmentBytes: 4096}

func testMetadata() []byte { return []byte("cluster 1, member 2") }

func randomSource(t testing.TB, seed uint64) *rand.Rand {
	t.Helper()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func entry(term, index uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Term: new(term), Index: new(index), Type: raftpb.EntryNormal.Enum(), Data: []byte(data)}
}

func hardState(term, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(term % 3), Commit: new(commit)}
}

// model is a log as a slice.
type model struct {
	hardState *raftpb.HardState
	entries   []*raftpb.Entry // those after cut
	cut       uint64
	snapshot  Snapshot
}

func (m *model) last() uint64 { return m.cut + uint64(len(m.entries)) }

// step is one call of Append or, if cut is not 0, of Cut, or if there is a snapshot, of Replace.
type step struct {
	hardState *raftpb.HardState
	entries   []*raftpb.Entry
	cut       uint64
	snapshot  Snapshot
}

func (m *model) apply(s step) {
	if s.snapshot != (Snapshot{}) {
		m.entries, m.cut, m.snapshot = nil, s.snapshot.Index, s.snapshot
	}
	if s.cut > m.cut {
		n := min(s.cut-m.cut, uint64(len(m.entries)))
		m.entries, m.cut = m.entries[n:], s.cut
	}
	if s.hardState != nil {
		m.hardState = s.hardState
	}
	if len(s.entries) > 0 {
		kept := s.entries[0].GetIndex() - m.cut - 1
		m.entries = append(m.entries[:kept:kept], s.entries...)
	}
}

// differs says how r is not what m is, or nothing.
func (m *model) differs(r *Recovered) string {
	switch {
	case !bytes.Equal(r.Metadata, testMetadata()):
		return fmt.Sprintf("metadata %q", r.Metadata)
	case !proto.Equal(r.HardState, m.hardState):
		return fmt.Sprintf("hard state %v, not %v", r.HardState, m.hardState)
	case r.FirstIndex != m.cut+1:
		return fmt.Sprintf("first index %d, not %d", r.FirstIndex, m.cut+1)
	case r.Snapshot != m.snapshot:
		return fmt.Sprintf("snapshot %v, not %v", r.Snapshot, m.snapshot)
	case len(r.Entries) != len(m.entries):
		return fmt.Sprintf("%d entries, not %d", len(r.Entries), len(m.entries))
	}
	for i, e := range r.Entries {
		if !proto.Equal(e, m.entries[i]) {
			return fmt.Sprintf("entry %v, not %v", e, m.entries[i])
		}
	}
	return ""
}

// journal calls a log and remembers what it was asked and what it acknowledged. It gives up after the first error.
type journal struct {
	options Options
	log     *Log
	created bool
	steps   []step
	durable int // how many of steps must be found at the next Open
	queued  int // the last of steps that is an Append, counted from 1: a cut is durable with the Append after it
	waiting []chan error
	err     error
}

func newJournal(d *disk) *journal {
	options := testOptions
	options.FS = d
	return &journal{options: options}
}

func (j *journal) create() {
	j.log, j.err = Create(testDir, testMetadata(), j.options)
	j.created = j.err == nil
}

// queue appends without waiting.
func (j *journal) queue(hs *raftpb.HardState, entries ...*raftpb.Entry) {
	if j.err != nil {
		return
	}
	done := make(chan error, 1)
	j.steps = append(j.steps, step{hardState: hs, entries: entries})
	j.log.Append(hs, entries, func(err error) { done <- err })
	j.waiting = append(j.waiting, done)
	j.queued = len(j.steps)
}

// wait waits for all that was queued.
func (j *journal) wait() {
	for _, done := range j.waiting {
		if err := <-done; err != nil && j.err == nil {
			j.err = err
		}
	}
	if j.err == nil {
		j.durable = max(j.durable, j.queued)
	}
	j.waiting = nil
}

func (j *journal) append(hs *raftpb.HardState, entries ...*raftpb.Entry) {
	j.queue(hs, entries...)
	j.wait()
}

func (j *journal) cut(index uint64) {
	if j.err != nil {
		return
	}
	j.steps = append(j.steps, step{cut: index})
	j.err = j.log.Cut(index)
}

func (j *journal) replace(index, term uint64, hs *raftpb.HardState) {
	if j.err != nil {
		return
	}
	j.steps = append(j.steps, step{hardState: hs, snapshot: Snapshot{index, term}})
	if j.err = j.log.Replace(index, term, hs); j.err == nil {
		j.durable = len(j.steps)
	}
}

func (j *journal) close() {
	if j.log == nil {
		return
	}
	j.wait()
	if err := j.log.Close(); err == nil && j.err == nil {
		j.durable = len(j.steps)
	} else if j.err == nil {
		j.err = err
	}
	j.log = nil
}

// reopen closes the log, opens it, and compares.
func (j *journal) reopen() {
	if j.close(); j.err != nil {
		return
	}
	var r *Recovered
	if j.log, r, j.err = Open(testDir, j.options); j.err == nil {
		_, j.err = j.find(r)
	}
}

// model is the state after the first n steps.
func (j *journal) model(n int) *model {
	m := &model{hardState: &raftpb.HardState{}}
	for _, s := range j.steps[:n] {
		m.apply(s)
	}
	return m
}

// find returns after how many steps the log was in the state r. Every acknowledged step must be among them.
func (j *journal) find(r *Recovered) (int, error) {
	var why string
	for n := len(j.steps); n >= j.durable; n-- {
		if why = j.model(n).differs(r); why == "" {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%d steps were acknowledged, and after them: %s", j.durable, why)
}

// recover opens the log on d after a fault, checks that it is in a state in which it may be, and goes on from there.
func (j *journal) recover(d *disk) error {
	options := j.options
	options.FS = d
	if got, err := Exists(testDir, d); !got || err != nil {
		if j.created {
			return fmt.Errorf("the log: %w", fs.ErrNotExist)
		}
		*j = *newJournal(d)
		j.create()
		return j.err
	}
	l, r, err := Open(testDir, options)
	if err != nil {
		return err
	}
	n, err := j.find(r)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	*j = journal{options: options, log: l, created: true, steps: j.steps[:n], durable: n}
	return nil
}

// TestRandomHistoryAgainstModel appends, overwrites, cuts, replaces, reopens and crashes at random.
func TestRandomHistoryAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := randomSource(t, seed)
		j := newJournal(newDisk(rng))
		if j.create(); j.err != nil {
			t.Fatal(j.err)
		}
		term := uint64(1)
		for range 300 {
			m := j.model(len(j.steps))
			switch p := rng.IntN(100); {
			case p < 55: // append
				j.queue(randomHardState(rng, term, m), randomEntries(rng, term, m.last()+1)...)
			case p < 65: // overwrite
				term++
				from := m.cut + 1 + rng.Uint64N(m.last()-m.cut+1)
				j.queue(randomHardState(rng, term, m), randomEntries(rng, term, from)...)
			case p < 75:
				j.wait()
			case p < 85:
				j.cut(rng.Uint64N(m.last() + 1))
			case p < 86: // past the end
				j.cut(m.last() + rng.Uint64N(100))
			case p < 89: // a snapshot has come, as of some entry here or of one that is not here yet
				term++
				index := m.cut + 1 + rng.Uint64N(m.last()-m.cut+20)
				j.replace(index, term, randomHardState(rng, term, m))
			case p < 94:
				j.reopen()
			default:
				j.crashNow()
			}
			if j.err != nil {
				t.Fatalf("seed %d: %v", seed, j.err)
			}
		}
		if j.close(); j.err != nil {
			t.Fatalf("seed %d: %v", seed, j.err)
		}
		if open := j.options.FS.(*disk).open; open != 0 {
			t.Fatalf("seed %d: %d files are open after Close", seed, open)
		}
	}
}

// crashNow loses the power while what is queued is being written.
func (j *journal) crashNow() {
	after := j.options.FS.(*disk).crash()
	durable := j.durable
	j.close()
	j.durable = durable
	if err := j.recover(after); err != nil {
		j.err = fmt.Errorf("after a crash: %w", err)
	}
}

func randomHardState(rng *rand.Rand, term uint64, m *model) *raftpb.HardState {
	if rng.IntN(2) == 0 {
		return nil
	}
	return hardState(term, m.last())
}

func randomEntries(rng *rand.Rand, term, first uint64) []*raftpb.Entry {
	entries := make([]*raftpb.Entry, rng.IntN(4))
	for i := range entries {
		size := rng.IntN(300)
		if rng.IntN(30) == 0 {
			size = rng.IntN(9000)
		}
		data := make([]byte, size)
		for k := range data {
			data[k] = byte(rng.Uint32())
		}
		entries[i] = entry(term, first+uint64(i), string(data))
	}
	return entries
}
