package consensus

// Bounds are of what is kept in memory, and what others have to keep. 0 is the default.
type Bounds struct {
	// Asked is how many bytes the log is asked for, but for one work more; 8 MiB. What is more waits for its turn.
	Asked int
	// Unsaved is with how many bytes that are not durable here a leader takes no more; 64 MiB.
	Unsaved int
	// Works is how many works wait for the log when a member takes no more of which an answer would wait with them; 2,048, which is
	// more than one leader brings about with the appends that it sends without an answer. raft sends all of that again.
	Works int
	// Unapplied is with how many bytes of entries that have come and are not applied a member takes no more from its leader; 512 MiB.
	// Nothing of that can be cut from the log.
	Unapplied int
	// Inflight is how many bytes of entries are sent to a follower before it has answered the first, but for one append more; 8 MiB.
	// A follower with a disk that stands still has to keep no more than that.
	Inflight uint64
	// Uncommitted is how many bytes of entries a leader takes that it does not know to be applied here; 256 MiB. Over it raft drops
	// proposals: those of this member wait, see CanPropose, and those of others are lost, and given up by who has made them.
	Uncommitted uint64
}

func (b Bounds) orDefaults() Bounds {
	setDefault(&b.Asked, 8<<20)
	setDefault(&b.Unsaved, 64<<20)
	setDefault(&b.Works, 4*maxInflight)
	setDefault(&b.Unapplied, 512<<20)
	setDefault(&b.Inflight, 8<<20)
	setDefault(&b.Uncommitted, 256<<20)
	return b
}

func setDefault[T int | uint64](bound *T, value T) {
	if *bound == 0 {
		*bound = value
	}
}
