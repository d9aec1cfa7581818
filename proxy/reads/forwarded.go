package reads

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/grpcapi/wire"
)

// What is forwarded is told to heat once for each call upstream, however many clients have been given its answer: heat is
// about upstream's work.

// CountForward counts a read that could have been answered from memory, and is forwarded without having been looked for there.
func (k *Keeper) CountForward(serializable bool) { k.stats.countForward(serializable, ErrForward) }

// Forwarded tells of a Range that upstream has answered.
func (k *Keeper) Forwarded(r *wire.RangeRequest, resp wire.Raw) {
	if !k.counts(r.Key, r.RangeEnd) {
		return
	}
	var answer wire.RangeResponse
	if err := answer.Unmarshal(resp, nil); err != nil {
		return // it is for the client to see
	}
	asked, _ := k.Bound(r)
	k.heat.add(time.Now(), readingOf(&asked, answer, len(resp)))
}

// ForwardedStream tells of a RangeStream that upstream has answered to the end: with so many bytes in all
// parts, of which the last states what there is.
func (k *Keeper) ForwardedStream(r *wire.RangeRequest, bytes int, last wire.Raw) {
	if !k.counts(r.Key, r.RangeEnd) {
		return
	}
	var answer wire.RangeResponse
	if err := answer.UnmarshalStream(last, nil); err != nil {
		return
	}
	k.heat.add(time.Now(), readingOf(r, answer, bytes))
}

// ForwardedTxn tells of a transaction that upstream has answered. It counts if it only reads. All that it
// might have read counts, because all of that must be in memory for the next one to be answered there: what was compared,
// and the branch that was not taken, with a size that is not known.
func (k *Keeper) ForwardedTxn(r *pb.TxnRequest, resp wire.Raw) {
	if k.limit == 0 || !onlyRanges(r) {
		return
	}
	var answer wire.TxnResponse
	if err := answer.Unmarshal(resp); err != nil {
		return
	}
	taken, other := r.Success, r.Failure
	if !answer.Succeeded {
		taken, other = other, taken
	}
	if len(answer.Answers) != len(taken) {
		return
	}
	var call []reading
	unseen := func(key, end []byte) {
		if k.counts(key, end) {
			call = append(call, unseenReading(key, end))
		}
	}
	for _, c := range r.Compare {
		unseen(c.Key, c.RangeEnd)
	}
	if len(r.Compare) > 0 {
		for _, op := range other {
			unseen(op.GetRequestRange().GetKey(), op.GetRequestRange().GetRangeEnd())
		}
	}
	for i, a := range answer.Answers { // last, because they know better what they have in common with the others
		asked := wire.RangeRequestOf(taken[i].GetRequestRange())
		var in wire.RangeResponse
		if a.Op != wire.TxnRange || in.Unmarshal(a.Body, nil) != nil {
			return
		}
		if k.counts(asked.Key, asked.RangeEnd) {
			call = append(call, readingOf(&asked, in, len(a.Body)))
		}
	}
	k.heat.add(time.Now(), call...)
}

// counts tells whether heat is to know of a read of [key, end). What a range in memory could not answer, no other can.
func (k *Keeper) counts(key, end []byte) bool { return k.limit > 0 && k.find(key, end) == nil }
