package wire

// WatchCreate is an etcdserverpb.WatchCreateRequest without filters: a server of watches applies those itself, and
// asks its own upstream for everything.
type WatchCreate struct {
	Key, End       []byte
	StartRevision  int64 // 0 is "now"
	ProgressNotify bool
	PrevKV         bool
	WatchID        int64 // 0 lets the server choose
	Fragment       bool
}

// AppendWatchCreate appends an encoded WatchRequest that creates c.
func AppendWatchCreate(dst []byte, c WatchCreate) []byte {
	n := sizeBytes(len(c.Key)) + sizeBytes(len(c.End)) + sizeVarint(uint64(c.StartRevision)) + sizeBool(c.ProgressNotify) +
		sizeBool(c.PrevKV) + sizeVarint(uint64(c.WatchID)) + sizeBool(c.Fragment)
	dst = appendPrefix(dst, 1, n)
	dst = appendBytes(dst, 1, c.Key)
	dst = appendBytes(dst, 2, c.End)
	dst = appendVarint(dst, 3, uint64(c.StartRevision))
	dst = appendBool(dst, 4, c.ProgressNotify)
	dst = appendBool(dst, 6, c.PrevKV)
	dst = appendVarint(dst, 7, uint64(c.WatchID))
	return appendBool(dst, 8, c.Fragment)
}

// AppendWatchCancel appends an encoded WatchRequest that cancels the watch with this id.
func AppendWatchCancel(dst []byte, watchID int64) []byte {
	return appendVarint(appendPrefix(dst, 2, sizeVarint(uint64(watchID))), 1, uint64(watchID))
}

// AppendWatchProgressRequest appends an encoded WatchRequest that asks for the progress of the whole stream.
func AppendWatchProgressRequest(dst []byte) []byte { return appendPrefix(dst, 3, 0) }
