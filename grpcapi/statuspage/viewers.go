package statuspage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// viewers are who has the page open. Each is sent the same messages, which are made once; one who has as many untaken as fit
// into his queue is dropped, and a browser then connects again by itself.
type viewers struct {
	mu     sync.Mutex // guards the fields below
	all    map[*viewer]struct{}
	closed bool
	some   chan struct{} // has an element when somebody has come
}

// viewer is one of them. Its queue is closed when he is dropped.
type viewer struct{ queue chan []byte }

const (
	maxViewers   = 32
	viewerQueue  = 8
	viewPeriod   = time.Second      // between two looks at what has changed
	writeTimeout = 10 * time.Second // of one message
)

var (
	errManyViewers = errors.New("too many have this page open: close one of them")
	errClosed      = errors.New("the server is stopping")
)

func newViewers() *viewers {
	return &viewers{all: map[*viewer]struct{}{}, some: make(chan struct{}, 1)}
}

func (s *viewers) add() (*viewer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, errClosed
	case len(s.all) >= maxViewers:
		return nil, errManyViewers
	}
	v := &viewer{make(chan []byte, viewerQueue)}
	s.all[v] = struct{}{}
	select {
	case s.some <- struct{}{}:
	default:
	}
	return v, nil
}

func (s *viewers) remove(v *viewer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(v)
}

// drop is called with s.mu held.
func (s *viewers) drop(v *viewer) {
	if _, ok := s.all[v]; ok {
		delete(s.all, v)
		close(v.queue)
	}
}

func (s *viewers) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// send never waits.
func (s *viewers) send(message []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for v := range s.all {
		select {
		case v.queue <- message:
		default:
			s.drop(v)
		}
	}
}

func (s *viewers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for v := range s.all {
		s.drop(v)
	}
}

// sample takes samples for the charts until the Page is closed.
func (p *Page) sample() {
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for {
		measured := p.cfg.Sample()
		p.sampled.Lock()
		p.viewers.send(event("sample", appendSample(nil, p.history.add(time.Now(), measured))))
		p.sampled.Unlock()
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			return
		}
	}
}

// update sends viewers what has changed, each second, as long as there are any. The message says at least that the server is
// there: without one the script takes what it has for old.
func (p *Page) update() {
	tick := time.NewTicker(viewPeriod)
	defer tick.Stop()
	var last map[string]string // what viewers have
	for {
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			return
		}
		if p.viewers.count() == 0 {
			last = nil
			select {
			case <-p.viewers.some: // its first message is sent at once
			case <-p.ctx.Done():
				return
			}
		}
		select {
		case <-p.viewers.some: // who has just come has nothing yet
			last = nil
		default:
		}
		now, err := p.parts(p.ctx)
		if err != nil {
			p.cfg.Logger.Error("could not make the status page", "error", err)
			continue
		}
		changed := map[string]string{}
		for id, html := range now {
			if last[id] != html {
				changed[id] = html
			}
		}
		last = now
		text, _ := json.Marshal(changed) // strings can be
		p.viewers.send(event("parts", text))
	}
}

// event is a server-sent event. JSON has no line feeds.
func event(name string, data []byte) []byte {
	return bytes.Join([][]byte{[]byte("event: " + name), append([]byte("data: "), data...), nil, nil}, []byte{'\n'})
}

// join adds a viewer, who is sent all samples after those in history.
func (p *Page) join() (v *viewer, history []byte, err error) {
	p.sampled.Lock()
	defer p.sampled.Unlock()
	if v, err = p.viewers.add(); err != nil {
		return nil, nil, err
	}
	return v, p.history.json(), nil
}

// follow sends one viewer what happens until he goes, is dropped, or may not see it any more.
func (p *Page) follow(w http.ResponseWriter, r *http.Request) {
	v, history, err := p.join()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer p.viewers.remove(v)
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	send := func(message []byte) bool {
		_ = out.SetWriteDeadline(time.Now().Add(writeTimeout)) // every connection of net/http has one
		_, err := w.Write(message)
		return err == nil && out.Flush() == nil
	}
	charts, _ := json.Marshal(p.cfg.Charts) // strings can be
	begin := fmt.Sprintf(`{"period":%g,"samples":%d,"charts":%s,"history":%s}`, samplePeriod.Seconds(), maxSamples, charts, history)
	if !send(event("history", []byte(begin))) {
		return
	}
	for {
		select {
		case message, ok := <-v.queue:
			if !ok || p.door.admit(r) != nil || !send(message) {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
