package wal

import (
	"errors"
	"fmt"
)

// ErrClosed is given to whoever uses a log that was closed.
var ErrClosed = errors.New("the WAL is closed")

// CorruptError says that a log is damaged elsewhere than a crash can damage it.
type CorruptError struct {
	Path   string // the segment file
	Offset int64  // where in it the damage begins, in bytes
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("WAL segment %s is corrupt at offset %d: %s; to open it would lose what this member has "+
		"acknowledged. Put back a copy of the whole data directory that was made while nothing ran in it, or start anew "+
		"with another data directory", e.Path, e.Offset, e.Reason)
}

// FormatError says that a segment holds what this build does not know: a newer one has written it.
type FormatError struct {
	Path string // the segment file
	What string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("WAL segment %s: %s is not known to this build, which knows version %d: it was written by a newer "+
		"weir; start that one", e.Path, e.What, formatVersion)
}
