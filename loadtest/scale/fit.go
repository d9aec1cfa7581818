package scale

import "slices"

// fitting is what the costs of one server, the core or a proxy, are made of: samples of trials of which two differ in one thing, so
// that the difference of what a write takes is what that thing takes.
//
// Rejected: a regression over many random trials. Its figures are as good, but none can be traced to what it was measured in.
type fitting struct {
	quiet  samples // nothing is written
	few    samples // few watchers, each on a connection of its own, and small values one by one
	conns  samples // but more watchers and connections
	many   samples // but more watchers
	batch  samples // but more events in a write
	batchN samples // that, and more watchers
	large  samples // but larger values
	largeN samples // that, and more watchers

	serial, serialConns samples // profiled: a crowd on few connections, and more connections
	crowd, crowdConns   samples // of memory: a crowd on few connections, and many connections
}

// samples are of the same trial in several rounds. There must be one.
type samples []sample

// median is that of one number of each.
func (s samples) median(of func(sample) float64) float64 {
	var all []float64
	for _, one := range s {
		all = append(all, of(one))
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// Sizes of trials. What is added is more than what it is added to, and the machine, which has the clients too, is half idle.
const (
	fewWatchers  = 10
	moreConns    = 60
	moreWatchers = 400
	someWatchers = 100 // where events are many, or large
	smallValue   = 256
	largeValue   = 4 << 10
	batchEvents  = 10

	serialWatchers = 2_000 // so many that a profile, of a hundred samples a second of processor time, tells anything
	serialConns    = 400
	serialRate     = 200 // more would be too much for the machine
	serialLonger   = 2   // times as long as other trials
	crowdWatchers  = 10_000
	crowdConns     = 500
	crowdRate      = 20
)

// fitTrial is a trial and where its samples go.
type fitTrial struct {
	trial
	into *samples
}

// trials are those for costs, with so many writes a second, all of one server: of the last of levels of proxies, or of the core if
// there are none.
func (f *fitting) trials(name string, proxies []int, rate float64) []fitTrial {
	few := trial{
		proxies: proxies, watchers: fewWatchers, connections: fewWatchers, rate: rate, batch: 1, valueSize: smallValue,
	}
	var all []fitTrial
	add := func(into *samples, what string, change func(*trial)) {
		t := few
		t.name = name + ", " + what
		change(&t)
		all = append(all, fitTrial{t, into})
	}
	add(&f.quiet, "quiet", func(t *trial) { t.rate = 0 })
	add(&f.few, "few watchers", func(*trial) {})
	add(&f.conns, "more connections", func(t *trial) { t.watchers, t.connections = moreConns, moreConns })
	add(&f.many, "more watchers", func(t *trial) { t.watchers = moreWatchers })
	add(&f.batch, "more events in a write", func(t *trial) { t.batch = batchEvents })
	add(&f.batchN, "more events in a write, more watchers", func(t *trial) { t.batch, t.watchers = batchEvents, someWatchers })
	add(&f.large, "large values", func(t *trial) { t.valueSize = largeValue })
	add(&f.largeN, "large values, more watchers", func(t *trial) { t.valueSize, t.watchers = largeValue, someWatchers })
	return all
}

// crowds are the trials for memory.
func (f *fitting) crowds(name string, proxies []int) []fitTrial {
	t := trial{proxies: proxies, rate: crowdRate, batch: 1, valueSize: smallValue}
	crowd, conns := t, t
	crowd.name, crowd.watchers, crowd.connections = name+", a crowd of watchers", crowdWatchers, fewWatchers
	conns.name, conns.watchers, conns.connections = name+", a crowd of connections", crowdConns, crowdConns
	return []fitTrial{{crowd, &f.crowd}, {conns, &f.crowdConns}}
}

// profiles are the trials for what one goroutine does.
func (f *fitting) profiles(name string, proxies []int) []fitTrial {
	t := trial{proxies: proxies, rate: serialRate, batch: 1, valueSize: smallValue, profiled: true}
	crowd, conns := t, t
	crowd.name, crowd.watchers, crowd.connections = name+", profile of watchers", serialWatchers, fewWatchers
	conns.name, conns.watchers, conns.connections = name+", profile of connections", serialConns, serialConns
	return []fitTrial{{crowd, &f.serial}, {conns, &f.serialConns}}
}

// costs are those of the server that the samples are of. What is so small that it comes out below zero is zero.
func (f *fitting) costs() Costs {
	const second = 1e6
	positive := func(x float64) float64 { return max(0, x) }
	idle := positive(f.quiet.median(func(s sample) float64 { return s.last() / s.seconds / second }))
	// What one write took, in microseconds, with all that follows of it.
	write := func(s samples) float64 {
		return s.median(func(s sample) float64 { return (s.last() - idle*s.seconds*second) / s.writes })
	}
	few, batch, large := write(f.few), write(f.batch), write(f.large)
	const smallEvent, added = float64(smallValue), float64(largeValue - smallValue)
	event := smallEvent + float64(keySize)

	// A message of one small event, of ten, and of a large one.
	message := positive(write(f.many)-few) / (moreWatchers - fewWatchers)
	messageOfBatch := positive(write(f.batchN)-batch) / (someWatchers - fewWatchers)
	messageOfLarge := positive(write(f.largeN)-large) / (someWatchers - fewWatchers)
	wake := positive(positive(write(f.conns)-few)/(moreConns-fewWatchers) - message)

	var out, in Cost
	outEvent := min(message, positive(messageOfBatch-message)/(batchEvents-1)) // with its bytes
	out.Batch = message - outEvent
	out.Byte = min(outEvent/event, positive(messageOfLarge-message)/added)
	out.Event = outEvent - out.Byte*event

	inEvent := positive((batch-few)/(batchEvents-1) - fewWatchers*outEvent)
	in.Byte = min(inEvent/event, positive((large-few)/added-fewWatchers*out.Byte))
	in.Event = inEvent - in.Byte*event
	in.Batch = positive(few - inEvent - fewWatchers*(message+wake))

	memory := f.few.median(func(s sample) float64 { return s.memory })
	perWatcher := positive(f.crowd.median(func(s sample) float64 { return s.memory })-memory) / (crowdWatchers - fewWatchers)
	perConn := positive(f.crowdConns.median(func(s sample) float64 { return s.memory })-memory)/(crowdConns-fewWatchers) - perWatcher
	return Costs{
		Idle: idle, In: in, Out: out, Wake: wake,
		Memory: memory, WatcherMemory: perWatcher, ConnectionMemory: positive(perConn),
	}
}

// serialCosts are the parts of a message, and of a connection that has to be written to, that one goroutine does: the profiled trials
// have both, in proportions that are known.
func (f *fitting) serialCosts() (message, wake float64) {
	write := func(s samples) float64 {
		return s.median(func(s sample) float64 { return s.serial * s.last() / s.writes })
	}
	crowd, conns := write(f.serial), write(f.serialConns)
	// serialWatchers * message + fewWatchers * wake = crowd, and serialConns * (message + wake) = conns.
	each := conns / serialConns
	message = max(0, crowd-fewWatchers*each) / (serialWatchers - fewWatchers)
	return message, max(0, each-message)
}
