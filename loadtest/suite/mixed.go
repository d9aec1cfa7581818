package suite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/report"
)

// mixedScenarios are loads of several kinds of requests, in proportions that their descriptions tell, with watches beside them.
func mixedScenarios() []Scenario { return []Scenario{kubernetesLike(), discoveryLike()} }

// share is one kind of request in a mix.
type share struct {
	percent int
	words   string // what it is, for the description
	// client makes the part of the i-th client that asks for it.
	client func(l *mixedLoad, i int) load.Requester
}

// mixture is a mixed load.
type mixture struct {
	name, description string
	conns, perConn    int
	shares            []share // 100 percent in all
	watched           []watched
	watchConns        int
	leases            load.Leases // none if there are no clients
	fill              func(ctx context.Context, s *System) error
}

func (m mixture) scenario() Scenario {
	description := fmt.Sprintf("%s %d clients on %d connections, each with one request under way:", m.description, m.conns*m.perConn, m.conns)
	for i, s := range m.shares {
		if i > 0 {
			description += ","
		}
		description += fmt.Sprintf(" %d %% %s", s.percent, s.words)
	}
	watchers := 0
	for _, w := range m.watched {
		watchers += w.watchers
	}
	description += fmt.Sprintf(". Meanwhile %d watchers on %d connections are told of all that is written.", watchers, m.watchConns)
	if m.leases.Clients > 0 {
		description += fmt.Sprintf(" And %d leases with a TTL of %d s are kept alive by %d clients.", m.leases.Leases, m.leases.TTL, m.leases.Clients)
	}
	return Scenario{
		Info: report.Scenario{Name: m.name, Kind: "mixed", Unit: "request", Description: description},
		// A proxy finds out by itself what is worth keeping, but not within a turn.
		ProxyArgs: []string{"--cache-prefix=" + Prefix},
		Fill:      m.fill,
		New:       func(s *System, r *Recorder) Load { return newMixedLoad(s, r, m) },
	}
}

// mixedLoad is a closed loop of clients who ask for this and that, with those who watch what is written, and keep leases
// alive. An event that is lost, comes twice or out of order fails the turn, as a lease that is gone does.
type mixedLoad struct {
	*load.ClosedLoop
	system    *System
	mixture   mixture
	observers *observers    // nil before Connect
	keepers   *load.Keepers // nil before Connect, or if nobody has leases
}

func newMixedLoad(s *System, r *Recorder, m mixture) *mixedLoad {
	l := &mixedLoad{system: s, mixture: m}
	l.ClosedLoop = newClosedLoop(s, r, load.Clients{Connections: m.conns, PerConn: m.perConn,
		Client: func(i int) load.Requester {
			c := &mixedClient{shares: m.shares}
			for _, share := range m.shares {
				c.parts = append(c.parts, share.client(l, i))
			}
			return c
		}})
	return l
}

// Connect connects everybody, and returns when all watches are there and all leases granted.
func (l *mixedLoad) Connect(ctx context.Context) (err error) {
	if l.observers, err = observe(ctx, l.system, l.mixture.watchConns, l.mixture.watched); err != nil {
		return err
	}
	if leases := l.mixture.leases; leases.Clients > 0 {
		if l.keepers, err = load.NewKeepers(ctx, l.system.place(), leases, func(int) load.Track { return uncounted{} }); err != nil {
			return err
		}
		if err := l.keepers.Grant(); err != nil {
			return err
		}
	}
	return l.ClosedLoop.Connect(ctx)
}

// Run has the clients ask. What goes wrong at those beside them ends it too.
func (l *mixedLoad) Run(ctx context.Context, stop <-chan struct{}) error {
	beside := []context.Context{l.observers.group.Failed()}
	if l.keepers != nil {
		beside = append(beside, l.keepers.Failed())
	}
	for _, failed := range beside {
		defer context.AfterFunc(failed, func() { l.Fail(context.Cause(failed)) })()
	}
	if err := l.ClosedLoop.Run(ctx, stop); err != nil {
		return err
	}
	if err := l.observers.await(); err != nil {
		return err
	}
	if l.keepers != nil {
		return l.keepers.Stop()
	}
	return nil
}

// Close ends all connections, and revokes the leases.
func (l *mixedLoad) Close() error {
	errs := []error{l.ClosedLoop.Close()}
	if l.observers != nil {
		errs = append(errs, l.observers.group.Close())
	}
	if l.keepers != nil {
		ctx, cancel := context.WithTimeout(context.Background(), load.Patience)
		defer cancel()
		errs = append(errs, l.keepers.Revoke(ctx), l.keepers.Close())
	}
	return errors.Join(errs...)
}

// uncounted is the track of what is done beside that which is measured.
type uncounted struct{}

// Done counts nothing.
func (uncounted) Done(time.Time, int) {}

// mixedClient asks for each kind of request as often as its share says.
type mixedClient struct {
	shares []share
	parts  []load.Requester // one for each share
	asked  load.Requester   // that was asked for last
}

func (c *mixedClient) Next() (client.Method, []byte, error) {
	at := rand.IntN(100)
	for i, s := range c.shares {
		if at -= s.percent; at < 0 {
			c.asked = c.parts[i]
			return c.asked.Next()
		}
	}
	return "", nil, errors.New("the shares of a mix are less than 100 percent")
}

func (c *mixedClient) Check(answer []byte) (int, error) { return c.asked.Check(answer) }

// watchedWriter is a writer whose writes are watched.
type watchedWriter struct {
	load.Requester
	mix *mixedLoad
	at  int // of what is watched
}

func (w watchedWriter) Check(answer []byte) (int, error) {
	n, err := w.Requester.Check(answer)
	if err == nil && n > 0 { // else it was no write: somebody had written before, and it was a read
		w.mix.observers.wrote(w.at)
	}
	return n, err
}

// ranger reads one of n ranges at random, whose answer is known.
type ranger struct {
	n       int
	request func(i int) (*pb.RangeRequest, page)

	want page // of what was asked for last
}

func (r *ranger) Next() (client.Method, []byte, error) {
	asked, want := r.request(rand.IntN(r.n))
	r.want = want
	request, err := encode(asked)
	return client.KVRange, request, err
}

func (r *ranger) Check(answer []byte) (int, error) {
	_, err := r.want.check(answer)
	return r.want.bytes(), err
}

// getters get one of n keys, with values of so many bytes.
func getters(n, valueSize int, key func(i int) []byte) *ranger {
	return &ranger{n: n, request: func(i int) (*pb.RangeRequest, page) {
		k := key(i)
		return &pb.RangeRequest{Key: k}, page{k, k, 1, valueSize}
	}}
}

// creator puts keys that were not there.
type creator struct {
	prefix string
	value  []byte
	n      int // keys so far
}

func (c *creator) Next() (client.Method, []byte, error) {
	key := fmt.Appendf(nil, "%s%d", c.prefix, c.n)
	c.n++
	request, err := encode(&pb.TxnRequest{
		Compare: []*pb.Compare{{Target: pb.Compare_MOD, Key: key, TargetUnion: &pb.Compare_ModRevision{}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: c.value}}}},
	})
	return client.KVTxn, request, err
}

func (c *creator) Check(m []byte) (int, error) {
	var answer pb.TxnResponse
	if err := proto.Unmarshal(m, &answer); err != nil {
		return 0, fmt.Errorf("decode an answer: %w", err)
	}
	if !answer.Succeeded {
		return 0, fmt.Errorf("a key below %s that nobody has put is there", c.prefix)
	}
	return len(c.value), nil
}

// What a Kubernetes cluster keeps in etcd.
const (
	kubeNodes, kubeNodeBytes = 1_000, 400
	kubePods, kubePodBytes   = 5_000, 2 << 10
	kubePage                 = 500 // of a list
	kubeEventBytes           = 1 << 10
)

func kubeKey(resource string) func(i int) []byte {
	return func(i int) []byte { return fmt.Appendf(nil, "%skube/%s/%08d", Prefix, resource, i) }
}

// kubernetesLike has the requests of the API servers of a cluster of a thousand nodes. That most are renewals of the nodes' leases and
// changes of status is what such clusters show in their etcd's metrics; watches are few, because API servers keep a
// cache for their clients, and lists are rare, and in pages.
func kubernetesLike() Scenario {
	const nodes, pods = 0, 1 // in what is watched
	updater := func(resource string, at, bytes int) func(l *mixedLoad, i int) load.Requester {
		return func(l *mixedLoad, i int) load.Requester {
			return watchedWriter{&comparer{key: kubeKey(resource)(i), value: slices.Repeat([]byte("u"), bytes)}, l, at}
		}
	}
	return mixture{
		name: "kubernetes-like",
		description: fmt.Sprintf("What API servers ask for a cluster of %d nodes (%d B each) and %d pods (%d B).",
			kubeNodes, kubeNodeBytes, kubePods, kubePodBytes),
		conns: 8, perConn: 16,
		shares: []share{
			{40, "renew the lease of a node (a compare-and-put on its mod_revision)", updater("leases", nodes, kubeNodeBytes)},
			{25, "change the status of a pod (the same)", updater("pods", pods, kubePodBytes)},
			{9, fmt.Sprintf("create an event of %d B (if its key is not there, put)", kubeEventBytes), func(_ *mixedLoad, i int) load.Requester {
				return &creator{prefix: fmt.Sprintf("%skube/events/%d-%d/", Prefix, rand.Int64(), i), value: slices.Repeat([]byte("e"), kubeEventBytes)}
			}},
			{25, "get a pod, linearizable", func(*mixedLoad, int) load.Requester {
				return getters(kubePods, kubePodBytes, kubeKey("pods"))
			}},
			{1, fmt.Sprintf("list a page of %d pods, linearizable", kubePage), func(*mixedLoad, int) load.Requester {
				key, end := kubeKey("pods"), load.PrefixEnd(Prefix+"kube/pods/")
				return &ranger{n: kubePods / kubePage, request: func(i int) (*pb.RangeRequest, page) {
					first := key(i * kubePage)
					return &pb.RangeRequest{Key: first, RangeEnd: end, Limit: kubePage}, page{first, key((i+1)*kubePage - 1), kubePage, kubePodBytes}
				}}
			}},
		},
		watched:    []watched{{Prefix + "kube/leases/", 3}, {Prefix + "kube/pods/", 3}}, // by three API servers
		watchConns: 3,
		fill: func(ctx context.Context, s *System) error {
			if err := fill(ctx, s, kubeNodes, kubeKey("leases"), slices.Repeat([]byte("n"), kubeNodeBytes)); err != nil {
				return err
			}
			return fill(ctx, s, kubePods, kubeKey("pods"), slices.Repeat([]byte("p"), kubePodBytes))
		},
	}.scenario()
}

// What a service discovery holds.
const (
	services, instancesOf = 100, 10
	instanceBytes         = 256
)

func servicePrefix(service int) string { return fmt.Sprintf("%sservices/%03d/", Prefix, service) }

func instanceKey(i int) []byte {
	return fmt.Appendf(nil, "%s%02d", servicePrefix(i/instancesOf), i%instancesOf)
}

// discoveryLike has the requests of programs that find each other: they look far more than they register, and watch what they have
// found.
func discoveryLike() Scenario {
	look := func(serializable bool) func(*mixedLoad, int) load.Requester {
		return func(*mixedLoad, int) load.Requester {
			return &ranger{n: services, request: func(i int) (*pb.RangeRequest, page) {
				return &pb.RangeRequest{Key: []byte(servicePrefix(i)), RangeEnd: load.PrefixEnd(servicePrefix(i)), Serializable: serializable},
					page{instanceKey(i * instancesOf), instanceKey((i+1)*instancesOf - 1), instancesOf, instanceBytes}
			}}
		}
	}
	m := mixture{
		name:        "discovery-like",
		description: fmt.Sprintf("Programs that find each other: %d services with %d instances of %d B each.", services, instancesOf, instanceBytes),
		conns:       16, perConn: 8,
		shares: []share{
			{60, "list the instances of a service, serializable", look(true)},
			{10, "the same, linearizable", look(false)},
			{25, "get an instance, linearizable", func(*mixedLoad, int) load.Requester {
				return getters(services*instancesOf, instanceBytes, instanceKey)
			}},
			{5, "register an instance again (a put)", func(l *mixedLoad, i int) load.Requester {
				own := i % (services * instancesOf)
				return watchedWriter{&putter{keys: 1, key: func(int) []byte { return instanceKey(own) }, value: slices.Repeat([]byte("i"), instanceBytes)},
					l, own / instancesOf}
			}},
		},
		watchConns: 40,
		leases:     load.Leases{Clients: 10, Leases: services * instancesOf, TTL: 30},
		fill: func(ctx context.Context, s *System) error {
			return fill(ctx, s, services*instancesOf, instanceKey, slices.Repeat([]byte("v"), instanceBytes))
		},
	}
	for i := range services {
		m.watched = append(m.watched, watched{servicePrefix(i), 10})
	}
	return m.scenario()
}
