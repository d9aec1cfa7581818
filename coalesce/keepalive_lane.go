package coalesce

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// pingLane is a queue of pings and the stream that they are sent on, one after another when it ends. A goroutine opens
// streams and sends, while there is anything to send and for idleStreams after that. Keepalives.mu guards it.
type pingLane struct {
	ready   sync.Cond // of Keepalives.mu: what serve waits for may have come
	serving bool      // there is a goroutine

	queue pingQueue // its trouble is with what a stream has failed since the last pong
	run   *pingRun  // the stream; nil if there is none
	ids   []int64   // that are being sent

	hung     instant // when a ping last held up a stream
	failures int     // of streams one after another, without a pong
	rest     instant // no stream is opened before
}

// The lanes, by what goes over them.
const (
	trusted  = iota // leases that cannot have expired
	doubtful        // leases that may have
	alone           // leases that were refused, and pings with which a stream has failed
	pingLanes
)

// maxDoubtful is the share of one client in a doubtful stream, where pings of expired leases stay until these are revoked, and
// maxDoubtfulOfSink that of one of its sinks. So it takes more than one client to leave others without a place, and more than one sink
// to leave those of its client without.
const (
	maxDoubtful       = maxUpstream / 2
	maxDoubtfulOfSink = maxDoubtful * 3 / 4
)

// pingRun is one upstream stream.
type pingRun struct {
	lane   *pingLane
	ctx    context.Context
	cancel context.CancelFunc
	opened instant
	stream PingStream // nil as long as it is being opened
	ending bool       // it serves its lane no longer

	upstream pingList // in the order in which they were sent
	heard    instant  // the last pong, or since when something is upstream
}

// queue puts p into the queue of a lane. k.mu is held.
func (k *Keepalives) queue(lane int, p *ping) {
	l := &k.lanes[lane]
	l.queue.add(p)
	if !l.serving && !k.closed {
		l.serving = true
		k.running.Add(1)
		go k.serve(l)
		return
	}
	l.ready.Signal()
}

// serve sends what is in the queue of l until nothing has come for long.
func (k *Keepalives) serve(l *pingLane) {
	defer k.running.Done()
	k.mu.Lock()
	defer k.mu.Unlock()
	var out answers
	for {
		switch {
		case k.closed, k.idle(k.now()):
			l.serving = false
			return
		case l.queue.isEmpty():
			l.ready.Wait()
		case l.run == nil:
			if l.rest > k.now() || k.streams >= maxStreams {
				l.ready.Wait()
				continue
			}
			k.open(l, &out)
		default:
			// Whoever is about to ping does so first, and is sent with the others.
			k.mu.Unlock()
			runtime.Gosched()
			k.mu.Lock()
			k.send(l, &out)
		}
		if len(out) > 0 {
			k.mu.Unlock()
			out.give()
			k.mu.Lock()
		}
	}
}

// open opens a stream for l. It releases k.mu meanwhile.
func (k *Keepalives) open(l *pingLane, out *answers) {
	r := &pingRun{lane: l, opened: k.now()}
	r.ctx, r.cancel = context.WithCancel(k.ctx)
	l.run = r
	k.streams++
	k.stats.Opened++
	k.mu.Unlock()
	stream, err := k.cfg.Upstream.Open(r.ctx)
	k.mu.Lock()
	if err != nil {
		k.ended(r, err, out)
		return
	}
	r.stream = stream
	k.running.Add(1)
	go k.receive(r)
}

// send takes as many pings from the queue of l as may be upstream, and sends them. It releases k.mu meanwhile.
func (k *Keepalives) send(l *pingLane, out *answers) {
	r, now := l.run, k.now()
	if r == nil || k.closed {
		return
	}
	ids := l.ids[:0]
	if r.upstream.n == 0 {
		r.heard = now
	}
	for p := l.queue.take(); p != nil; p = l.queue.take() {
		if p.late(now) {
			k.drop(p, rpctypes.ErrGRPCTimeout, out, now)
			continue
		}
		if l == &k.lanes[trusted] && p.alive <= now { // it has waited for too long
			k.leave(p)
			k.enqueue(p, now)
			continue
		}
		p.asked, p.sent, p.stream = true, now, r
		r.upstream.push(p)
		ids = append(ids, p.id)
	}
	if l.ids = ids; len(ids) == 0 {
		return
	}
	k.stats.Sent += uint64(len(ids))
	k.stats.Batches++
	k.mu.Unlock()
	_ = r.stream.Send(ids) // receive is told what is wrong
	k.mu.Lock()
}

// receive gives the pongs of a stream to those who wait for them.
func (k *Keepalives) receive(r *pingRun) {
	defer k.running.Done()
	var out answers
	for {
		pongs, err := r.stream.Recv()
		k.mu.Lock()
		if err != nil {
			k.ended(r, err, &out)
		} else {
			k.received(r, pongs, &out)
		}
		k.mu.Unlock()
		out.give()
		if err != nil {
			return
		}
	}
}

// received matches pongs with pings. One that nobody waits for is of a stream that was set aside, or upstream is wrong; then
// the stream falls silent. k.mu is held.
func (k *Keepalives) received(r *pingRun, pongs []Pong, out *answers) {
	now, l := k.now(), r.lane
	for _, pong := range pongs {
		p := k.pings[pong.ID]
		if p == nil || p.stream != r {
			continue
		}
		r.heard = now
		r.upstream.remove(p)
		p.stream = nil
		k.leave(p)
		switch {
		case pong.Err != nil:
			k.refused(p, pong.Err, out, now)
			continue
		case pong.TTL > 0:
			k.leases.renewed(p.id, pong.TTL, p.sent, now)
		default:
			k.leases.gone(p.id)
		}
		l.failures, l.queue.trouble = 0, nil
		k.answer(out, p, pong)
		k.finish(p, now)
	}
	switch {
	case r.ending:
	case !l.queue.isEmpty():
		l.ready.Signal()
	case l == &k.lanes[alone] && r.upstream.n == 0: // which is hardly ever used
		r.leave()
	}
}

// refused deals with a ping that alone has failed. k.mu is held.
func (k *Keepalives) refused(p *ping, err error, out *answers, now instant) {
	if mayPass(err) && !p.answered && !p.late(now) {
		k.lookUpLater(p, out, now)
		return
	}
	k.drop(p, err, out, now)
}

// drop fails p, if it has not been answered, and takes it away. k.mu is held.
func (k *Keepalives) drop(p *ping, err error, out *answers, now instant) {
	k.fail(out, p, err)
	k.leave(p)
	k.finish(p, now)
}

// ended takes a stream away that has ended by err. k.mu is held.
func (k *Keepalives) ended(r *pingRun, err error, out *answers) {
	r.cancel()
	k.streams--
	for i := range k.lanes { // each may have waited for a stream to end
		k.lanes[i].ready.Signal()
	}
	if r.ending || k.closed {
		return
	}
	l, now := r.lane, k.now()
	l.run = nil
	if errors.Is(err, io.EOF) { // upstream has closed it properly
		err = rpctypes.ErrGRPCStopped
	}
	// An ordered stream was at the first ping. Those behind it have not been looked at, and may have another answer.
	blames := r.stream != nil && r.stream.Ordered() && r.upstream.n > 0 && !isOfIdentity(err) && !isOfUpstream(err)
	if blames {
		p := r.upstream.pop()
		p.stream = nil
		k.leave(p)
		k.blame(p, err, out, now)
	}
	for p := r.upstream.pop(); p != nil; p = r.upstream.pop() {
		p.stream = nil
		k.leave(p)
		if !p.answered && (blames || mayPass(err)) {
			k.enqueue(p, now)
		} else {
			k.drop(p, err, out, now)
		}
	}
	if blames && isDenied(err) { // which is no trouble of the lane
		return
	}
	if r.stream == nil && !mayPass(err) { // nor would the next one be opened
		for p := l.queue.take(); p != nil; p = l.queue.take() {
			k.drop(p, err, out, now)
		}
	}
	l.queue.trouble = err
	if l.failures++; l.failures > 1 {
		l.rest = now + min(firstRest<<(l.failures-2), maxRest)
		k.arm(l.rest, now)
	}
}

// blame deals with the ping that has ended an ordered stream. No other stream is to be ended by it. k.mu is held.
func (k *Keepalives) blame(p *ping, err error, out *answers, now instant) {
	if isDenied(err) {
		k.leases.set(p.id, refused, now)
	}
	if mayPass(err) && !p.answered {
		p.alone = true
		k.enqueue(p, now)
		return
	}
	k.drop(p, err, out, now)
}

// After a stream that has failed the next one is opened at once, and then after longer and longer, if none brings a pong.
const (
	firstRest = 10 * time.Millisecond
	maxRest   = 160 * time.Millisecond
)
