package suite

import (
	"context"
	"fmt"
	"slices"

	"weir/loadtest/load"
	"weir/loadtest/report"
	"weir/loadtest/target"
)

// The clients of the request scenarios. Writers are as many as keep a batching server busy, readers as many as two
// processors answer within a few milliseconds.
const (
	requestConns = 8
	writesUnder  = 32 // way on each connection
	readsUnder   = 16
	valueSize    = 256 // bytes, of all values
)

// requestScenarios are those whose clients send one request after the other, as soon as they are answered.
func requestScenarios() []Scenario {
	return slices.Concat(writeScenarios(), readScenarios())
}

// newClosedLoop is of clients of a system.
func newClosedLoop(s *System, r *Recorder, c load.Clients) *load.ClosedLoop {
	return load.NewClosedLoop(s.place(), c, func(int) load.Track { return r.Track() })
}

// The systems that aims are for.
const (
	ofCore      = string(target.Core)
	ofProxyCore = string(target.ProxyCore)
	ofProxyEtcd = string(target.ProxyEtcd37)
)

const writeSource = "core: 1.5 times what etcd writes, each second and for each second of processor time"

// writeAims are those of a core.
func writeAims(why string) []report.Aim {
	return []report.Aim{
		{System: ofCore, Measure: report.ThroughputRatio, AtLeast: true, Bound: 1.5, Source: writeSource, Why: why},
		{System: ofCore, Measure: report.CPURatio, Bound: 0.67, Source: writeSource, Why: why},
	}
}

const (
	manyWritersWhy = "gRPC's transport is most of what a write costs; the requests that arrive while a batch is being written share the next one."
	oneWriterWhy   = "One client alone shares no batch with others: it waits for the disk and for changes of goroutines, of which any server has some."
)

func writeScenarios() []Scenario {
	const keys = 10_000
	key := func(i int) []byte { return fmt.Appendf(nil, Prefix+"put/%08d", i) }
	value := slices.Repeat([]byte("w"), valueSize)
	put := func(name, who string, conns, under int, why string) Scenario {
		return Scenario{
			Info: report.Scenario{Name: name, Kind: "writes", Unit: "put", Aims: writeAims(why),
				Description: fmt.Sprintf("%s with one put under way each, of a random one of %d keys, with a value of %d B.", who, keys, valueSize)},
			Fill: func(ctx context.Context, s *System) error { return fill(ctx, s, keys, key, value) },
			New: func(s *System, r *Recorder) Load {
				return newClosedLoop(s, r, load.Clients{Connections: conns, PerConn: under,
					Client: func(int) load.Requester { return &putter{keys: keys, key: key, value: value} }})
			},
		}
	}
	return []Scenario{
		put("put", fmt.Sprintf("%d clients on %d connections", requestConns*writesUnder, requestConns), requestConns, writesUnder, manyWritersWhy),
		put("put-1-client", "One client", 1, 1, oneWriterWhy),
		{
			Info: report.Scenario{Name: "txn", Kind: "writes", Unit: "transaction", Aims: writeAims(manyWritersWhy),
				Description: fmt.Sprintf("%d clients on %d connections, each with one transaction under way, as Kubernetes writes: if nobody has changed the "+
					"client's own key, by its mod_revision, put %d B, else get it.", requestConns*writesUnder, requestConns, valueSize)},
			New: func(s *System, r *Recorder) Load {
				return newClosedLoop(s, r, load.Clients{Connections: requestConns, PerConn: writesUnder,
					Client: func(i int) load.Requester {
						return &comparer{key: fmt.Appendf(nil, Prefix+"txn/%08d", i), value: value}
					}})
			},
		},
	}
}

// What is read: few enough keys that the cache of etcd's grpc-proxy, 2,048 answers, holds all.
const (
	lists      = 10
	keysInList = 100
	readWrites = 200 // a second
)

func listPrefix(list int) string { return fmt.Sprintf(Prefix+"list/%02d/", list) }

// listedKey is the i-th of all keys in lists.
func listedKey(i int) []byte {
	return fmt.Appendf(nil, "%s%03d", listPrefix(i/keysInList), i%keysInList)
}

const (
	readSource = "proxy: 0.4 times etcd's processor time for a get from memory, upstream's included"
	listSource = "proxy: 0.25 times etcd's processor time for a list of 100 keys from memory, upstream's included"

	getWhy = "A get from memory costs what gRPC's transport costs; what weir does itself is about a tenth of it."
	// A check is what upstream is asked on behalf of all linearizable reads that wait.
	linearizableGetWhy = "About 45 of 128 reads under way share a check, which is a fifth of a get's cost at an etcd, and 7 % of the proxy's: " +
		"--read-check-interval=2ms has more share one, and a get cost a fifth less, but waits longer when there are few. Most of the proxy's part is gRPC: 31 % " +
		"reads requests, 10 % writes answers, and each read is a goroutine that waits and is woken; weir's own work is 15 %, the check in it."
	listWhy = "A list is joined once for each state of its range, then copied once for each connection's socket."
)

// readAims are those of weir's proxies.
func readAims(list, serializable bool) []report.Aim {
	a := report.Aim{Measure: report.CPURatio, Bound: 0.4, Source: readSource, Why: linearizableGetWhy}
	if serializable {
		a.Why = getWhy
	}
	if list {
		a.Bound, a.Source, a.Why = 0.25, listSource, listWhy
	}
	core, etcd := a, a
	core.System, etcd.System = ofProxyCore, ofProxyEtcd
	return []report.Aim{core, etcd}
}

func readScenarios() []Scenario {
	var all []Scenario
	for _, list := range []bool{false, true} {
		for _, writes := range []int{0, readWrites} {
			for _, serializable := range []bool{true, false} {
				s := readScenario(list, serializable, writes)
				// A short run has lists that are serializable, and linearizable reads of what others write.
				s.Long = list && writes == 0 && !serializable || writes > 0 && serializable
				all = append(all, s)
			}
		}
	}
	heat := readScenario(false, true, 0)
	heat.Info.Name, heat.Info.Aims, heat.Long, heat.ProxyArgs = "get-serializable-by-heat", nil, true, nil
	heat.Info.Description += " Weir's proxies are not told what to keep, and find it out."
	all = append(all, heat, oneGet(false), oneGet(true))
	for _, clients := range []int{10, 100, 1000} {
		all = append(all, listers(clients))
	}
	return all
}

// oneGet is of one client who gets.
func oneGet(serializable bool) Scenario {
	one, kind := readScenario(false, serializable, 0), "linearizable"
	if serializable {
		kind = "serializable"
	}
	one.Info.Name, one.Info.Aims, one.Long = "one-"+kind+"-get", nil, serializable
	one.Info.Description = fmt.Sprintf("One client with one %s get under way, of a random one of %d keys of %d B: what a round trip takes.",
		kind, lists*keysInList, valueSize)
	one.New = func(s *System, r *Recorder) Load { return newReads(s, r, 1, 1, false, serializable, 0) }
	return one
}

// listers is of so many clients with a connection each: what upstream of a proxy does when clients become more.
func listers(clients int) Scenario {
	s := readScenario(true, false, 0)
	s.Info.Name, s.Info.Aims, s.Long = fmt.Sprintf("list-%d-clients", clients), nil, true
	s.Info.Description = fmt.Sprintf("%d clients on a connection each, with one linearizable list under way, of one of %d lists of %d keys of %d B.",
		clients, lists, keysInList, valueSize)
	s.New = func(s *System, r *Recorder) Load { return newReads(s, r, clients, 1, true, false, 0) }
	return s
}

// readScenario is of gets, or of lists, with or without so many writes a second.
func readScenario(list, serializable bool, writes int) Scenario {
	unit, what, kind := "get", fmt.Sprintf("of a random one of %d keys of %d B", lists*keysInList, valueSize), "linearizable"
	if list {
		unit, what = "list", fmt.Sprintf("of one of %d lists of %d keys of %d B", lists, keysInList, valueSize)
	}
	if serializable {
		kind = "serializable"
	}
	s := Scenario{
		ProxyArgs: []string{"--cache-prefix=" + Prefix},
		Info: report.Scenario{Name: unit + "-" + kind, Kind: "reads", Unit: unit, Aims: readAims(list, serializable),
			Description: fmt.Sprintf("%d clients on %d connections, each with one %s %s under way, %s.", requestConns*readsUnder, requestConns, kind, unit, what)},
		Fill: func(ctx context.Context, s *System) error {
			return fill(ctx, s, lists*keysInList, listedKey, slices.Repeat([]byte("v"), valueSize))
		},
		New: func(s *System, r *Recorder) Load {
			return newReads(s, r, requestConns, readsUnder, list, serializable, writes)
		},
	}
	if writes > 0 {
		s.Info.Name += "-writes"
		s.Info.Description += fmt.Sprintf(" Meanwhile %d puts a second change random ones of all %d keys, straight at the store; their processor time is "+
			"in that of the %ss.", writes, lists*keysInList, unit)
	}
	return s
}
