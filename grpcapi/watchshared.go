package grpcapi

import (
	"google.golang.org/grpc/mem"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// madeMessage is what has been made of a message for several of its watchers. It is coalesce.Message.Made.
type madeMessage struct {
	// responses are by the watch id: the ids of most watches are small numbers, so that watchers of different streams with
	// the same id are sent the same bytes.
	responses []*sharedResponse
	// inside is the message as clients of each namespace have it. There is hardly ever more than one: watchers of the same
	// message have the same range.
	inside []messageInside
}

type messageInside struct {
	namespace namespace
	message   *coalesce.Message
}

func madeOf(m *coalesce.Message) *madeMessage {
	made, _ := m.Made.(*madeMessage)
	if made == nil {
		made = new(madeMessage)
		m.Made = made
	}
	return made
}

// inside returns the message as clients in the namespace have it, made once for all of them. The error is that it is not one
// of this namespace, and then it must not be delivered.
func (n namespace) inside(m *coalesce.Message) (*coalesce.Message, error) {
	if n == "" {
		return m, nil
	}
	if made, _ := m.Made.(*madeMessage); made != nil {
		for _, i := range made.inside {
			if i.namespace == n {
				return i.message, nil
			}
		}
	}
	events, err := wire.Namespace(n).AnswerEvents(m.Events, m.PrevKV)
	if err != nil {
		return nil, namespaceError(err)
	}
	in := &coalesce.Message{Revision: m.Revision, Events: events, PrevKV: m.PrevKV, Fanout: m.Fanout}
	if m.Fanout > 1 {
		made := madeOf(m)
		made.inside = append(made.inside, messageInside{n, in})
	}
	return in, nil
}

// sharedResponse may be sent any number of times, also at the same time.
type sharedResponse struct {
	message mem.BufferSlice
	size    int // as counted in flight
	head    mem.SliceBuffer
}

// maxSharedID bounds the memory for one message.
const maxSharedID = 1024

// shared returns the response to w, or nil if it is not worth sharing or not the same for everybody.
func (s *watchService) shared(w *coalesce.Watcher, m *coalesce.Message) *sharedResponse {
	if m.Fanout <= 1 || w.Fragment || w.ID < 0 || w.ID >= maxSharedID || s.slow != nil {
		return nil
	}
	made := madeOf(m)
	if more := int(w.ID) + 1 - len(made.responses); more > 0 {
		made.responses = append(made.responses, make([]*sharedResponse, more)...)
	}
	r := made.responses[w.ID]
	if r == nil {
		h := s.header()
		h.Revision = m.Revision
		body, size := m.Body()
		r = &sharedResponse{head: wire.AppendWatchHead(nil, h, w.ID)}
		r.size = frameHeader + len(r.head) + size
		r.message = append(append(make(mem.BufferSlice, 0, 1+len(body)), &r.head), body...)
		made.responses[w.ID] = r
	}
	return r
}
