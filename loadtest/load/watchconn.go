package load

import (
	"cmp"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/loadtest/client"
)

// watchConn checks what comes on one connection, for its reader. The watches are to go on, so it is an error that one is ended.
type watchConn struct {
	load     *Watchers
	index    int // of the connection
	track    Track
	watchers map[watchID]*position

	events [][]byte // of the message that is looked at
}

// watchID is who an event is for, on one connection.
type watchID struct {
	rpc uint32
	id  int64
}

// position is how far a watcher has come.
type position struct {
	next int64 // number of the put that it is to be given next; unknown before the first event of one that watches a single key
}

const unknown = -1

// The numbers of fields in etcd's rpc.proto and kv.proto.
const (
	responseWatchID, responseCreated, responseCanceled, responseReason, responseEvents = 2, 3, 4, 6, 11

	eventKV, kvValue = 2, 5
)

// Message is given a WatchResponse.
func (c *watchConn) Message(rpc uint32, m []byte) error {
	who := watchID{rpc: rpc}
	var created, canceled bool
	var reason []byte
	c.events = c.events[:0]
	if err := client.EachField(m, func(num protowire.Number, _ protowire.Type, field []byte) error {
		switch num {
		case responseWatchID:
			id, _ := protowire.ConsumeVarint(field)
			who.id = int64(id)
		case responseCreated:
			created = true
		case responseCanceled:
			canceled = true
		case responseReason:
			reason, _ = protowire.ConsumeBytes(field)
		case responseEvents:
			event, _ := protowire.ConsumeBytes(field)
			c.events = append(c.events, event)
		}
		return nil
	}); err != nil {
		return err
	}
	if canceled {
		return fmt.Errorf("the server canceled a watch: %q", reason)
	}
	if created {
		if err := c.create(who); err != nil {
			return err
		}
	}
	return c.take(who)
}

func (c *watchConn) create(who watchID) error {
	if c.watchers[who] != nil {
		return fmt.Errorf("watch %d was created twice on a stream", who.id)
	}
	p := &position{next: c.load.first}
	if c.load.watches.SingleKey {
		p.next = unknown
	}
	c.watchers[who] = p
	c.load.created.add(1)
	return nil
}

// take gives a watcher the events of a message.
func (c *watchConn) take(who watchID) error {
	if len(c.events) == 0 {
		return nil
	}
	p := c.watchers[who]
	if p == nil {
		return fmt.Errorf("an event for watch %d, which was not created", who.id)
	}
	for _, event := range c.events {
		kv, err := client.BytesField(event, eventKV)
		if err != nil {
			return err
		}
		value, err := client.BytesField(kv, kvValue)
		if err != nil {
			return err
		}
		s, err := stampOf(value)
		if err == nil {
			err = c.advance(p, s.put)
		}
		if err != nil {
			return fmt.Errorf("watch %d: %w", who.id, err)
		}
		c.track.Done(c.load.epoch.Add(s.due), len(value))
	}
	c.load.arrived.add(int64(len(c.events)))
	return nil
}

// advance has a watcher take the event of a put, which must be the next.
func (c *watchConn) advance(p *position, put int64) error {
	step := int64(1)
	if c.load.watches.SingleKey {
		step = int64(c.load.watches.Watchers)
		if p.next == unknown {
			next, err := c.firstOf(put)
			if err != nil {
				return err
			}
			p.next = next
		}
	}
	switch {
	case put > p.next:
		return fmt.Errorf("it was given put %d when %d was next: an event is lost", put, p.next)
	case put < p.next:
		return fmt.Errorf("it was given put %d when %d was next: an event came twice, or out of order", put, p.next)
	}
	p.next += step
	return nil
}

// firstOf is the number of the first put that the watcher of a single key is to be given, which was given this one now. Which key is
// whose is learnt of that event, since a server may confirm watches in any order.
func (c *watchConn) firstOf(put int64) (int64, error) {
	l := c.load
	keys := int64(l.watches.Watchers)
	key := put % keys
	if int(key)%l.watches.Connections != c.index || l.taken[key] {
		return 0, fmt.Errorf("it was given put %d, of a key that another watches", put)
	}
	l.taken[key] = true
	return l.first + (key-l.first%keys+keys)%keys, nil
}

// End is told that the server has ended an RPC.
func (c *watchConn) End(_ uint32, err error) error {
	return cmp.Or(err, errors.New("the server ended a stream of watches"))
}
