package scale

// trial is one run: who watches what through which tree, and what is written to the core.
type trial struct {
	name        string
	proxies     []int   // at each level, from the core down; none if clients go to the core
	watchers    int     // of all
	connections int     // of all
	ownKeys     bool    // every watcher has a key of its own; else all watch all keys
	rate        float64 // writes a second; 0 if nothing happens but that time passes
	batch       int     // events in each write; not above watchers
	valueSize   int     // in bytes
	profiled    bool    // sample.serial is wanted
}

const keyPrefix = "scale/"

// keySize is that of the keys that load.Watches makes of keyPrefix.
const keySize = len(keyPrefix) + 8

// load is the trial as the model sees it.
func (t trial) load() Load {
	l := Load{
		Name: t.name, Watchers: t.watchers, PerConnection: float64(t.watchers) / float64(t.connections), Share: 1,
		Events: t.rate * float64(t.batch), Batch: float64(t.batch), KeySize: keySize, ValueSize: t.valueSize,
	}
	if t.ownKeys {
		l.Share = 1 / float64(t.watchers)
	}
	return l
}

// sample is what was measured in a trial.
type sample struct {
	writes   float64
	seconds  float64
	core     float64     // its processor time, in microseconds
	proxies  [][]float64 // that of each proxy, by level
	latency  Latency
	memory   float64 // bytes of RSS, at the end, of the server that the last connection is to
	sent     float64 // bytes of messages that it sent to clients, if it is a proxy
	upstream float64 // watches that the core has
	serial   float64 // part of that server's processor time that one goroutine took for the delivery of events, if it was profiled
	busy     float64 // part of this machine's cores that was busy, with whatever
}

// last is the processor time of the server that the last connection is to, in microseconds.
func (s sample) last() float64 {
	if len(s.proxies) == 0 {
		return s.core
	}
	level := s.proxies[len(s.proxies)-1]
	return level[len(level)-1]
}
