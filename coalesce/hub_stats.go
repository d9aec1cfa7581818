package coalesce

// HubStats is what a hub has at one moment, and what it has done since its start.
type HubStats struct {
	Feeds     int
	RingBytes int // memory taken by the feeds' history
	Streams   int
	Watchers  int // announced or about to be
	Behind    int // of these, that may lack what others of their feed have been sent
	// Delivered counts events that Sinks took: one for each watcher that was sent it. Shared is how many of these were
	// found and put together for another watcher anyway.
	Delivered, Shared uint64
}

// Stats counts. It looks at every feed and every stream.
func (h *Hub) Stats() HubStats {
	s := HubStats{Delivered: h.delivered.Load(), Shared: h.shared.Load()}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Feeds, s.Streams = len(h.feeds), len(h.streams)
	for _, f := range h.feeds {
		s.RingBytes += f.ring.size()
	}
	for _, stream := range h.streams {
		s.Watchers += len(stream.watchers)
		s.Behind += stream.behind
	}
	return s
}

// Count counts the streams of some sinks, their watches, and how many of these may lack what others of their feed have been sent. It
// looks at every stream.
func (h *Hub) Count(of func(Sink) bool) (streams, watches, behind int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, stream := range h.streams {
		if of(stream.sink) {
			streams++
			watches += len(stream.watchers)
			behind += stream.behind
		}
	}
	return streams, watches, behind
}

// count notes that watchers took events of one message: all together, and the most that one of them did.
func (h *Hub) count(all, one int) {
	h.delivered.Add(uint64(all))
	h.shared.Add(uint64(all - one))
}
