package coretest

// step is a point at which a member can be made to crash: between two things that a crash may part.
type step string

const (
	stepAppend        step = "append"         // a batch is about to be written to the log
	stepAppended      step = "appended"       // it is durable, and nobody has been told
	stepApplied       step = "applied"        // an entry is applied in memory
	stepCommitted     step = "committed"      // the store is durable
	stepCut           step = "cut"            // the log is cut, and raft's memory is not
	stepReceived      step = "received"       // a snapshot is on the disk, and raft has not heard of it
	stepInstall       step = "install"        // raft has taken it, and nothing is installed
	stepLogReplaced   step = "log-replaced"   // the log begins after it, and the store is the old one
	stepStoreReplaced step = "store-replaced" // the store is the new one, and the memory is not
)

// steps are all of them, and snapshotSteps those that a snapshot brings.
var (
	steps         = append([]step{stepAppend, stepAppended, stepApplied, stepCommitted, stepCut}, snapshotSteps...)
	snapshotSteps = []step{stepReceived, stepInstall, stepLogReplaced, stepStoreReplaced}
)

// at tells whether the member has crashed at a step, as somebody wanted.
func (m *Member) at(s step) bool {
	c := m.cluster
	if c.crashAt[m.id] != s {
		return false
	}
	delete(c.crashAt, m.id)
	c.crashedAt[s]++
	c.trace("member %d is to crash: %s", m.id, s)
	m.crashKeeping(0)
	return true
}
