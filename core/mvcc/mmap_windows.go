package mvcc

const mmapFlags = 0

// mapAhead is false because a mapping larger than the file makes the file as large.
const mapAhead = false
