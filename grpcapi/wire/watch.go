package wire

// A WatchResponse is a head, which differs from watcher to watcher, and a body of events, which watchers with the
// same events and options share: mem.BufferSlice{head, body}. The fields of the head stand before the events in
// the message and are appended in the order of the functions below.

// AppendWatchHead appends header and watch_id of a WatchResponse.
func AppendWatchHead(dst []byte, h Header, watchID int64) []byte {
	return appendVarint(h.Append(dst), 2, uint64(watchID))
}

// AppendWatchCreated appends created = true.
func AppendWatchCreated(dst []byte) []byte { return appendBool(dst, 3, true) }

// AppendWatchCanceled appends canceled = true, the compact revision if it is the cause, and the reason if any.
func AppendWatchCanceled(dst []byte, compactRevision int64, reason string) []byte {
	dst = appendBool(dst, 4, true)
	dst = appendVarint(dst, 5, uint64(compactRevision))
	return appendBytes(dst, 6, reason)
}

// AppendWatchFragment appends fragment = true: the events that belong together go on in the next response.
func AppendWatchFragment(dst []byte) []byte { return appendBool(dst, 7, true) }

// AppendEventPrefix appends tag and length of one events entry, whose n bytes follow.
func AppendEventPrefix(dst []byte, n int) []byte { return appendPrefix(dst, 11, n) }

// AppendEvent appends one events entry, with prev_kv if prev is set and there is one.
func AppendEvent(dst []byte, e *Event, prev bool) []byte {
	dst = append(AppendEventPrefix(dst, e.Size(prev)), e.Data...)
	if prev && e.Prev != nil {
		dst = AppendPrevKV(dst, e.Prev)
	}
	return dst
}

// AppendPrevKV appends the prev_kv field of an event, which stands behind the event's Data.
func AppendPrevKV(dst, prev []byte) []byte { return appendMessage(dst, 3, prev) }
