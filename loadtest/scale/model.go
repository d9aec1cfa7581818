package scale

import (
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Model predicts what a tree of proxies takes of its machines.
//
// A server's processor time is taken to be linear: so much for each batch of events that comes in, for each message that goes out,
// for each connection that has to be written to, for each byte. That holds as long as no queue builds up, and errs on the safe
// side beyond: a server that falls behind sends several batches in one message. All servers of a level are alike, and clients are
// spread evenly over them.
//
// Rejected: a simulation of each event. It has the same inputs, and its answer hides which of them mattered.
type Model struct {
	Core, Proxy Costs
	// Direct is the latency from when a write was due to its event at a watcher of the core, when little is going on.
	Direct Latency
	// Hop is by how much a proxy between them adds to it.
	Hop Latency
}

// Latency is of events, in milliseconds.
type Latency struct{ P50, P99 float64 }

// Cost is processor time, in microseconds, of handling a batch: events that come or go together.
type Cost struct {
	Batch float64 // for each batch, whatever is in it
	Event float64 // for each event in it
	Byte  float64 // for each byte of the keys and values of these
}

// of is the processor time in microseconds of a number of batches.
func (c Cost) of(batches, events, eventBytes float64) float64 {
	return c.Batch*batches + events*(c.Event+c.Byte*eventBytes)
}

// Costs are what one server takes.
type Costs struct {
	Idle       float64 // cores, when nothing is going on
	Downstream float64 // cores, for each proxy before it, when nothing is going on
	In         Cost    // of a write, at a core; of what comes from upstream, at a proxy
	Out        Cost    // of a message to one watcher
	Wake       float64 // microseconds, for each connection that gets anything of a batch: mostly the system call
	// Serial and SerialWake are the parts of Out.Batch and Wake, in microseconds, that one goroutine does for all watchers of a
	// range. However many cores there are, it has one.
	Serial, SerialWake float64
	// In bytes, under load: of a server without clients, for each watcher, and for each connection.
	Memory, WatcherMemory, ConnectionMemory float64
}

// Load is who watches what, and how much is written.
type Load struct {
	Name          string
	Watchers      int
	PerConnection float64 // watchers that share a connection; at least 1
	Share         float64 // of all events that each watcher is to get, above 0 and up to 1
	Events        float64 // a second
	Batch         float64 // events that are written, and so sent on, together; at least 1
	KeySize       int     // in bytes
	ValueSize     int
}

// eventBytes is the size of an event's key and value.
func (l Load) eventBytes() float64 { return float64(l.KeySize + l.ValueSize) }

// batches is how many there are a second.
func (l Load) batches() float64 { return l.Events / l.Batch }

// ofDownstream is the load at a server with n proxies before it: each gets everything, over a connection of its own.
func (l Load) ofDownstream(n int) Load {
	l.Watchers, l.PerConnection, l.Share = n, 1, 1
	return l
}

// of is the load at a server with n of the watchers.
func (l Load) of(n int) Load {
	l.Watchers = n
	return l
}

// connections is how many the watchers have.
func (l Load) connections() float64 { return math.Ceil(float64(l.Watchers) / l.PerConnection) }

// messages is how many go to the watchers a second, with how many events, and to how many connections something has to be written,
// once for each batch that has anything for one of its watchers.
func (l Load) messages() (messages, events, wakes float64) {
	if l.Watchers == 0 {
		return 0, 0, 0
	}
	n, conns := float64(l.Watchers), l.connections()
	// The chance that any of so many watchers wants one of a batch's events, each of them and each event by itself.
	some := func(watchers float64) float64 { return -math.Expm1(l.Batch * watchers * math.Log1p(-l.Share)) }
	return l.batches() * n * some(1), l.Events * n * l.Share, l.batches() * conns * some(n/conns)
}

// Machine is where a server runs, and how much of it may be used.
type Machine struct {
	Cores  int
	Memory float64 // bytes
	Link   float64 // bytes a second that can leave it
	// Use is the part of cores, memory, link, and of the one goroutine that serves a range, that may be busy in the mean; above 0
	// and below 1. The rest is for bursts, and for the clients of a server that is lost.
	Use float64
}

// Demand is what a server has to have.
type Demand struct {
	Cores     float64 // busy
	Serial    float64 // cores, of the one goroutine that serves a range
	Memory    float64 // bytes
	Bandwidth float64 // bytes a second that leave it
}

// What an HTTP/2 frame and gRPC put before each message, and TCP, IP version 4 and Ethernet around each write to a connection:
// RFC 9113 section 4.1; gRPC over HTTP/2; 20 bytes and 12 of timestamps, 20, and 38 with gap and preamble.
const (
	messageHead = 9 + 5
	packetHead  = 32 + 20 + 38
	packetBytes = 1448 // of data in a full packet
)

// messageBytes are those of the messages, as etcd's API defines them, that a server with this load sends each second.
func (l Load) messageBytes() float64 {
	messages, events, _ := l.messages()
	return messages*responseSize() + events*float64(l.eventSize())
}

// bytes are those that leave it on the network.
func (l Load) bytes() float64 {
	messages, _, wakes := l.messages()
	data := l.messageBytes() + messages*messageHead
	return data + packetHead*max(wakes, data/packetBytes)
}

// eventSize is that of an event as part of a response.
func (l Load) eventSize() int {
	const revision, version = 1 << 32, 1 << 10 // of a store that has seen some
	r := &pb.WatchResponse{Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{
		Key: make([]byte, l.KeySize), Value: make([]byte, l.ValueSize), CreateRevision: revision, ModRevision: revision, Version: version,
	}}}}
	return proto.Size(r)
}

// responseSize is that of a response without events.
func responseSize() float64 {
	const id, revision, term, watch = 1 << 63, 1 << 32, 10, 1 << 10
	return float64(proto.Size(&pb.WatchResponse{
		Header: &pb.ResponseHeader{ClusterId: id, MemberId: id, Revision: revision, RaftTerm: term}, WatchId: watch,
	}))
}

// demand is what a server takes whose watchers are those of l. If they are proxies, each takes what a downstream does.
func (c Costs) demand(l Load, proxies bool) Demand {
	const second = 1e6 // in microseconds
	messages, events, wakes := l.messages()
	d := Demand{
		Cores: c.Idle + (c.In.of(l.batches(), l.Events, l.eventBytes())+c.Out.of(messages, events, l.eventBytes())+c.Wake*wakes)/second,
		// What comes in is taken by another goroutine.
		Serial:    (c.Serial*messages + c.SerialWake*wakes) / second,
		Memory:    c.Memory + float64(l.Watchers)*c.WatcherMemory + l.connections()*c.ConnectionMemory,
		Bandwidth: l.bytes(),
	}
	if proxies {
		d.Cores += float64(l.Watchers) * c.Downstream
	}
	return d
}

// The limits of a server.
const (
	processor   = "processor"
	oneRoutine  = "one goroutine"
	network     = "network"
	memoryLimit = "memory"
)

// limit is what a server would first have too little of if it had more to do, and the part that it needs of what it may use: above
// 1 it cannot run.
func (m Machine) limit(d Demand) (what string, part float64) {
	for _, l := range []struct {
		what string
		part float64
	}{
		{processor, d.Cores / (m.Use * float64(m.Cores))},
		{oneRoutine, d.Serial / m.Use},
		{network, d.Bandwidth / (m.Use * m.Link)},
		{memoryLimit, d.Memory / (m.Use * m.Memory)},
	} {
		if l.part > part {
			what, part = l.what, l.part
		}
	}
	return what, part
}

// holds tells whether a machine has what is demanded.
func (m Machine) holds(d Demand) bool {
	_, part := m.limit(d)
	return part <= 1
}

// queue is a server as a queue of batches.
func (m Machine) queue(d Demand, idle float64, l Load) queue {
	busy := max((d.Cores-idle)/float64(m.Cores), d.Serial)
	return queue{took: 1e3 * busy / l.batches(), busy: busy}
}
