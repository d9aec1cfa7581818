package mvcc

import "syscall"

// mmapFlags: bbolt advises the kernel not to read ahead, but the whole file is about to be read for the index.
const mmapFlags = syscall.MAP_POPULATE

const mapAhead = true
