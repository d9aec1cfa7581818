package grpcapi

import (
	"google.golang.org/grpc/mem"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// sharedResponses are what a message's watchers of different streams have been sent, by their watch id: the ids of most
// watches are small numbers, so that those with the same id are sent the same bytes. They are coalesce.Message.Made.
type sharedResponses []*sharedResponse

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
	made, _ := m.Made.(*sharedResponses)
	if made == nil {
		made = new(sharedResponses)
		m.Made = made
	}
	if more := int(w.ID) + 1 - len(*made); more > 0 {
		*made = append(*made, make(sharedResponses, more)...)
	}
	r := (*made)[w.ID]
	if r == nil {
		h := s.header()
		h.Revision = m.Revision
		body, size := m.Body()
		r = &sharedResponse{head: wire.AppendWatchHead(nil, h, w.ID)}
		r.size = frameHeader + len(r.head) + size
		r.message = append(append(make(mem.BufferSlice, 0, 1+len(body)), &r.head), body...)
		(*made)[w.ID] = r
	}
	return r
}
