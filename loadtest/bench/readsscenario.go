package bench

import (
	"fmt"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
)

// ReadScenario is who reads what. Each client has a connection, and asks again as soon as it is answered.
type ReadScenario struct {
	Name         string
	List         bool // of keysInList keys; else one key
	Serializable bool
	Clients      int
	InFlight     int     // requests at a time, of each client
	Writes       float64 // a second, to the keys that are read
	Aim          float64 // the highest processor time for a read that a proxy over etcd shall take, as a ratio to etcd's; 0 for none
}

// ReadScenarios is every scenario. The first four load a server with 128 requests at a time; the next two are for the
// latency of one client, to whom every round trip counts; the others are for what upstream of a proxy does when clients
// become more.
func ReadScenarios() []ReadScenario {
	return []ReadScenario{
		{Name: "get-serializable", Serializable: true, Clients: 8, InFlight: 16, Aim: 0.4},
		{Name: "get-linearizable", Clients: 8, InFlight: 16, Aim: 0.4},
		{Name: "list-serializable", List: true, Serializable: true, Clients: 8, InFlight: 16, Aim: 0.25},
		{Name: "list-linearizable-writes", List: true, Clients: 8, InFlight: 16, Writes: 200, Aim: 0.25},
		{Name: OneSerializable, Serializable: true, Clients: 1, InFlight: 1},
		{Name: OneLinearizable, Clients: 1, InFlight: 1},
		{Name: "lists-10", List: true, Clients: 10, InFlight: 1},
		{Name: "lists-100", List: true, Clients: 100, InFlight: 1},
		{Name: "lists-1000", List: true, Clients: 1000, InFlight: 1},
	}
}

// OneSerializable is a scenario of one client: what a round trip takes.
const OneSerializable = "one-serializable"

// OneLinearizable is the same with linearizable reads.
const OneLinearizable = "one-linearizable"

// FindReadScenarios finds scenarios by their names.
func FindReadScenarios(names []string) ([]ReadScenario, error) {
	return find(names, "scenario", ReadScenarios(), func(s ReadScenario) string { return s.Name })
}

// ReadTarget is a target that reads are measured of.
type ReadTarget struct {
	Name      string
	Kind      target.Kind
	ProxyArgs []string
}

// ReadTargets is every target. The proxies are told what to keep, but for one that has to find out.
func ReadTargets() []ReadTarget {
	fixed := []string{"--cache-prefix=" + readPrefix}
	return []ReadTarget{
		{Name: string(target.Etcd37), Kind: target.Etcd37},
		{Name: string(target.GRPCProxyEtcd37), Kind: target.GRPCProxyEtcd37},
		{Name: string(target.Core), Kind: target.Core},
		{Name: string(target.ProxyCore), Kind: target.ProxyCore, ProxyArgs: fixed},
		{Name: string(target.ProxyEtcd37), Kind: target.ProxyEtcd37, ProxyArgs: fixed},
		{Name: string(target.ProxyEtcd37) + "-by-heat", Kind: target.ProxyEtcd37},
	}
}

// Aimed tells whether the aims are for the target: a proxy of weir's.
func (t ReadTarget) Aimed() bool {
	return t.Kind == target.ProxyCore || t.Kind == target.ProxyEtcd37
}

// FindReadTargets finds targets by their names.
func FindReadTargets(names []string) ([]ReadTarget, error) {
	return find(names, "target", ReadTargets(), func(t ReadTarget) string { return t.Name })
}

// What is read: few enough keys that the cache of etcd's grpc-proxy, 2,048 answers, holds all.
const (
	readPrefix    = "reads/"
	lists         = 10
	keysInList    = 100
	readValueSize = 256 // bytes
)

func listPrefix(list int) []byte { return fmt.Appendf(nil, "%s%02d/", readPrefix, list) }

// readKey is the i-th of lists x keysInList keys.
func readKey(i int) []byte { return fmt.Appendf(listPrefix(i/keysInList), "%03d", i%keysInList) }

// requests is what clients ask for. Its method may be called concurrently.
type requests interface {
	// next is an encoded RangeRequest and how many keys are in its answer. The error is io.EOF when there are no more.
	next() (request []byte, keys int, err error)
}

// hotRequests are the requests of a scenario, at random and without end.
type hotRequests struct {
	encoded [][]byte
	keys    int
}

func (s ReadScenario) requests() (*hotRequests, error) {
	all := &hotRequests{keys: 1}
	n := lists * keysInList
	if s.List {
		n, all.keys = lists, keysInList
	}
	for i := range n {
		r := &pb.RangeRequest{Key: readKey(i), Serializable: s.Serializable}
		if s.List {
			r.Key = listPrefix(i)
			r.RangeEnd = append(listPrefix(i)[:len(r.Key)-1], '/'+1)
		}
		b, err := encode(r)
		if err != nil {
			return nil, err
		}
		all.encoded = append(all.encoded, b)
	}
	return all, nil
}

func (r *hotRequests) next() (request []byte, keys int, err error) {
	return r.encoded[rand.IntN(len(r.encoded))], r.keys, nil
}

func encode(r *pb.RangeRequest) ([]byte, error) {
	b, err := proto.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	return b, nil
}
