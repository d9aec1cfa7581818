package coalesce

// answer is one call of Sink.Progress.
type answer struct {
	stream  *Stream
	watcher *Watcher // nil for the whole stream
	watches int
	times   int
}

// ask has the broadcaster look at a stream of which somebody wants to know the progress, after what it is delivering
// now. h.mu is held.
func (h *Hub) ask(s *Stream) {
	if s.requests == 0 && !s.notify {
		return
	}
	if !s.asking {
		s.asking = true
		h.asking = append(h.asking, s)
	}
	h.poke()
}

// answerProgress is called by the broadcaster between two turns, when all live watchers have been sent everything up
// to its position, and so anything it tells them now is told in order.
func (h *Hub) answerProgress() {
	c := &h.caster
	h.mu.Lock()
	pos := h.pos
	kept := h.asking[:0]
	for _, s := range h.asking {
		c.answers = h.appendAnswers(c.answers, s)
		if s.asking = s.requests > 0; s.asking {
			kept = append(kept, s)
		}
	}
	clear(h.asking[len(kept):])
	h.asking = kept
	h.mu.Unlock()

	for _, a := range c.answers {
		for ; a.times > 0; a.times-- {
			if !a.stream.sink.Progress(a.watcher, pos, a.watches) {
				h.owe(a)
				break
			}
		}
	}
	clear(c.answers)
	c.answers = c.answers[:0]
}

func (h *Hub) appendAnswers(to []answer, s *Stream) []answer {
	if s.notify {
		s.notify = false
		for _, w := range s.watchers {
			if w.notify && w.state == live && w.next <= h.pos+1 {
				if !w.busy {
					to = append(to, answer{stream: s, watcher: w, times: 1})
				}
				w.busy = false
			}
		}
	}
	if s.requests > 0 && s.wanted <= h.pos && s.reached(h.pos) {
		to = append(to, answer{stream: s, watches: s.watches, times: s.requests})
		s.requests = 0
	}
	return to
}

// owe takes back an answer that the sink did not let through. It is tried again when the watch that the sink has
// announced arrives here.
func (h *Hub) owe(a answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := a.stream
	s.requests = min(s.requests+a.times, maxProgressRequests)
	if s.watches != a.watches { // it has arrived already
		h.ask(s)
	}
}
