package suite

import (
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/target"
)

// A mixed load and one of large values do what they say, at a store and through a proxy.
func TestMixedAndLargeLoads(t *testing.T) {
	t.Parallel()
	o := short(t, "kubernetes-like", "discovery-like", "put-100KiB", "get-1MiB")
	o.Systems = []target.Kind{target.Etcd37, target.ProxyCore}
	for _, s := range runWhole(t, o).Scenarios {
		for _, of := range s.Results {
			if len(of.Turns) != 1 || of.Turns[0].Operations == 0 || of.Turns[0].Bytes == 0 {
				t.Errorf("%s of %s: %+v", s.Name, of.System, of.Turns)
			}
		}
	}
}

func TestSharesOfAMixAreAll(t *testing.T) {
	c := &mixedClient{shares: []share{{percent: 30}, {percent: 70}}, parts: []load.Requester{&recorded{}, &recorded{}}}
	for range 10_000 {
		if _, _, err := c.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.parts[0].(*recorded).asked; n < 2_500 || n > 3_500 {
		t.Errorf("a share of 30 %% was asked for %d times in 10,000", n)
	}
}

// recorded counts how often it was asked for.
type recorded struct{ asked int }

func (r *recorded) Next() (client.Method, []byte, error) {
	r.asked++
	return client.KVRange, nil, nil
}

func (r *recorded) Check([]byte) (int, error) { return 0, nil }

func TestObserversFindWhatIsWrongWithEvents(t *testing.T) {
	event := func(revision int64) *mvccpb.Event { return &mvccpb.Event{Kv: &mvccpb.KeyValue{ModRevision: revision}} }
	for _, c := range []struct {
		name   string
		events []*mvccpb.Event
		want   string // part of the error; "" for none
	}{
		{"all", []*mvccpb.Event{event(2), event(3)}, ""},
		{"twice", []*mvccpb.Event{event(2), event(3), event(3)}, "revision 3 came after one of 3"},
		{"one twice and one never", []*mvccpb.Event{event(2), event(2)}, "revision 2 came after one of 2"},
		{"out of order", []*mvccpb.Event{event(3), event(2)}, "came after"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := &observers{group: client.NewGroup(t.Context()), watched: []watched{{"a/", 1}}, changed: make(chan struct{}, 1)}
			defer func() { _ = all.group.Close() }()
			all.wrote(0)
			all.wrote(0)
			m, err := proto.Marshal(&pb.WatchResponse{WatchId: 1, Events: c.events})
			if err != nil {
				t.Fatal(err)
			}
			err = (&observer{all: all, last: map[int64]int64{}}).Message(1, m)
			if err == nil {
				err = all.await()
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("the error is %v, want %q", err, c.want)
			}
		})
	}
}
