package grpcapi

import "weir/coalesce"

// pingOrder has the answers to the pings of one stream wait for those to earlier ones: etcd answers a stream in the order of its
// pings, and there are clients that count on it, though a pong names its lease. So a lease that has expired and is not yet
// revoked holds up the stream of its own client, as it does at etcd, and nobody else's. And a ping that fails ends the stream
// when all before it have been answered. The zero value is empty.
type pingOrder struct {
	ring        []orderedPing // of those whose turn has not come, by their numbers; as long as a power of two
	first, next uint64        // the numbers of the oldest of them, and of the next to come
}

type orderedPing struct {
	answered bool
	pong     coalesce.Pong
}

// at is the place of a ping whose turn has not come, or of the next one if there is room.
func (o *pingOrder) at(number uint64) *orderedPing { return &o.ring[number&uint64(len(o.ring)-1)] }

// ask puts a ping behind all that have come, and returns its number.
func (o *pingOrder) ask() (number uint64) {
	if o.next-o.first == uint64(len(o.ring)) {
		o.grow()
	}
	o.next++
	return o.next - 1
}

func (o *pingOrder) grow() {
	full := *o
	o.ring = make([]orderedPing, max(1, 2*len(full.ring)))
	for n := o.first; n < o.next; n++ {
		*o.at(n) = *full.at(n)
	}
}

// answer takes the answer to a ping, and appends those to ready whose turn it is. The error is of the next ping, which has
// failed: nothing is to come after it.
func (o *pingOrder) answer(ready []coalesce.Pong, p coalesce.Pong) ([]coalesce.Pong, error) {
	*o.at(p.Number) = orderedPing{true, p}
	for ; o.first < o.next && o.at(o.first).answered; o.first++ {
		next := o.at(o.first)
		if next.pong.Err != nil {
			return ready, next.pong.Err
		}
		ready = append(ready, next.pong)
		next.answered = false
	}
	if o.first == o.next && len(o.ring) > maxEmpty {
		o.ring = nil
	}
	return ready, nil
}

// maxEmpty is for how many pings a stream keeps room while it has none, so that one which had many once costs no more than others.
const maxEmpty = 256

// emptied is s without its elements.
func emptied[T any](s []T) []T {
	if cap(s) > maxEmpty {
		return nil
	}
	return s[:0]
}
