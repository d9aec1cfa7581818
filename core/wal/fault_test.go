package wal

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// shortHistory makes use of everything: create, commits of one and of many, an overwritten suffix, a batch larger
// than a segment, new segments, cuts with and without something to remove, a cut past the end, snapshots in place of the log, and
// reopening.
func shortHistory(j *journal) {
	if j.create(); j.err != nil {
		return
	}
	data := func(n int) string { return strings.Repeat("x", n) }
	j.append(hardState(1, 0), entry(1, 1, data(10)))
	j.append(nil, entry(1, 2, data(600)), entry(1, 3, data(20)))
	j.append(hardState(2, 2))
	for i := range uint64(4) {
		j.queue(nil, entry(2, 4+i, data(150)))
	}
	j.wait()
	j.append(hardState(3, 5), entry(3, 6, data(200)), entry(3, 7, data(200)))
	j.cut(2)
	j.append(nil, entry(3, 8, data(5000)))
	j.append(nil, entry(3, 9, data(700)))
	j.cut(7)
	j.reopen()
	j.append(hardState(4, 9), entry(4, 10, data(2000)))
	j.append(nil, entry(4, 11, data(1000)))
	j.append(nil, entry(4, 12, data(1000)))
	j.cut(11)
	j.queue(nil, entry(5, 12, data(100)))
	j.cut(20)
	j.append(hardState(5, 20), entry(5, 21, data(300)))
	j.queue(nil, entry(5, 22, data(3000)), entry(5, 23, data(300)))
	j.replace(22, 6, hardState(6, 22)) // one of the two entries is void
	j.append(nil, entry(6, 23, data(2000)))
	j.append(nil, entry(6, 24, data(3000)))
	j.reopen()
	j.append(nil, entry(6, 25, data(100)))
	j.cut(24)
	j.replace(40, 7, nil)
	j.reopen()
	j.append(hardState(7, 41), entry(7, 41, data(100)))
	j.cut(41)
	j.close()
}

// TestEveryOperationMayFail lets each operation on the disk fail in turn, a write and a sync by landing any of their
// sectors, and checks that the log opens with everything acknowledged and nothing else, and goes on.
func TestEveryOperationMayFail(t *testing.T) {
	cases := []struct {
		name         string
		stays, crash bool
	}{
		{"the process goes on and ends", false, false},
		{"the machine stops later", false, true},
		{"the machine stops there", true, true},
	}
	const seeds = 5
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n, faulted := 0, true
			for faulted {
				n++
				faulted = false
				for seed := range uint64(seeds) {
					d := newDisk(rand.New(rand.NewPCG(uint64(n), seed)))
					d.failNext(n, c.stays, errFault)
					j := newJournal(d)
					shortHistory(j)
					j.close()
					if !d.hasFaulted() && j.err != nil {
						t.Fatalf("seed %d, no fault: %v", seed, j.err)
					}
					faulted = faulted || d.hasFaulted()
					if err := checkAfterFault(j, d, c.crash); err != nil {
						t.Fatalf("operation %d, seed %d: %v", n, seed, err)
					}
				}
			}
			if n < 50 {
				t.Fatalf("the history has only %d operations", n)
			}
			t.Logf("%d operations, %d seeds each", n, seeds)
		})
	}
}

func checkAfterFault(j *journal, d *disk, crash bool) error {
	if d.open != 0 {
		return fmt.Errorf("%d files are open after Close", d.open)
	}
	d.failNext(0, false, nil)
	if crash {
		d = d.crash()
	}
	if err := j.recover(d); err != nil {
		return fmt.Errorf("after the fault: %w", err)
	}
	// What Open gave out is durable, although it may have been found in memory only.
	j.close()
	d = d.crash()
	if err := j.recover(d); err != nil {
		return fmt.Errorf("after a second crash: %w", err)
	}
	for i := range uint64(12) {
		j.append(hardState(9, i), entry(9, j.model(len(j.steps)).last()+1, strings.Repeat("y", int(i)*90)))
	}
	j.reopen()
	j.close()
	return j.err
}
