package load

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/client"
)

// counted is a Track that adds up what it is told.
type counted struct {
	answers, bytes int
	longest        time.Duration
}

func (c *counted) Done(begun time.Time, bytes int) {
	c.answers++
	c.bytes += bytes
	c.longest = max(c.longest, time.Since(begun))
}

// watching is the first of two connections, whose watchers have put 5 as their first.
func watching(t *testing.T, w Watches) (*watchConn, *counted) {
	t.Helper()
	w.Connections, w.Puts, w.ValueSize = 2, 1, 32
	l := &Watchers{watches: w, group: client.NewGroup(t.Context()), epoch: time.Now().Add(-time.Second), next: 5, first: 5,
		taken: make([]bool, w.Watchers), created: newTally(), arrived: newTally()}
	t.Cleanup(func() { l.group.Close() })
	track := &counted{}
	return &watchConn{load: l, track: track, watchers: map[watchID]*position{}}, track
}

// give gives a connection a response to a watch of its stream 1, with events of puts.
func give(t *testing.T, c *watchConn, r *pb.WatchResponse, puts ...int64) error {
	t.Helper()
	for _, put := range puts {
		r.Events = append(r.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), Value: stamp{put: put}.value(32)}})
	}
	m, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return c.Message(1, m)
}

func TestEventsCountForWhomTheyCome(t *testing.T) {
	c, track := watching(t, Watches{Watchers: 4})
	for _, err := range []error{
		give(t, c, &pb.WatchResponse{Created: true}),
		give(t, c, &pb.WatchResponse{Created: true, WatchId: 7}),
		give(t, c, &pb.WatchResponse{WatchId: 7}, 5, 6),
		give(t, c, &pb.WatchResponse{}, 5),
		give(t, c, &pb.WatchResponse{}), // progress
		give(t, c, &pb.WatchResponse{}, 6),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if track.answers != 4 || track.bytes != 4*32 || track.longest < time.Second || c.load.Events() != 4 {
		t.Errorf("counted %+v, %d events, want 4 of 32 B that were due a second ago", *track, c.load.Events())
	}
}

func TestWatchersOfSingleKeysAreGivenTheirOwn(t *testing.T) {
	c, track := watching(t, Watches{Watchers: 4, SingleKey: true}) // this connection has keys 0 and 2
	for _, err := range []error{
		give(t, c, &pb.WatchResponse{Created: true}),
		give(t, c, &pb.WatchResponse{Created: true, WatchId: 1}),
		give(t, c, &pb.WatchResponse{WatchId: 1}, 6, 10),
		give(t, c, &pb.WatchResponse{}, 8, 12, 16),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if track.answers != 5 {
		t.Errorf("%d events counted, want 5", track.answers)
	}
}

func TestWhatAWatcherIsNotToBeGivenIsAnError(t *testing.T) {
	prefix, keys := Watches{Watchers: 4}, Watches{Watchers: 4, SingleKey: true}
	for _, test := range []struct {
		name string
		Watches
		first, then []int64 // puts
		want        string
	}{
		{"the first event is lost", prefix, nil, []int64{6}, "lost"},
		{"an event is lost", prefix, []int64{5, 6}, []int64{8}, "lost"},
		{"an event is lost within a message", prefix, nil, []int64{5, 7}, "lost"},
		{"an event comes twice", prefix, []int64{5}, []int64{5}, "twice"},
		{"events are out of order", prefix, nil, []int64{5, 6, 5}, "out of order"},
		{"an event of before the watch", prefix, nil, []int64{4}, "twice"},
		{"an event of a single key is lost", keys, []int64{6}, []int64{14}, "lost"},
		{"the first of a single key is lost", keys, nil, []int64{10}, "lost"},
		{"an event of a single key comes twice", keys, []int64{6, 10}, []int64{10}, "twice"},
		{"an event of another connection's key", keys, nil, []int64{5}, "another"},
		{"an event of another key", keys, []int64{6}, []int64{8}, "when 10 was next"},
	} {
		c, _ := watching(t, test.Watches)
		if err := errors.Join(give(t, c, &pb.WatchResponse{Created: true}), give(t, c, &pb.WatchResponse{}, test.first...)); err != nil {
			t.Errorf("%s: %v too early", test.name, err)
		}
		if err := give(t, c, &pb.WatchResponse{}, test.then...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
}

func TestWritesAreDueByTheClock(t *testing.T) {
	begun := time.Now()
	l := &Watchers{watches: Watches{Rate: 10}, begun: begun}
	at := func(ms int) time.Time { return begun.Add(time.Duration(ms) * time.Millisecond) }
	for _, c := range []struct{ from, until, want int }{
		{0, 0, 0}, {0, 1, 1}, {0, 100, 1}, {0, 101, 2}, {1, 100, 0}, {100, 1100, 10}, {250, 3250, 30}, {-500, 50, 1}, {-500, -100, 0},
	} {
		if got := l.Due(at(c.from), at(c.until)); got != int64(c.want) {
			t.Errorf("from %d ms to %d ms %d writes are due, want %d", c.from, c.until, got, c.want)
		}
	}
}

func TestTwoWatchersOfOneKeyAreAnError(t *testing.T) {
	c, _ := watching(t, Watches{Watchers: 4, SingleKey: true})
	if err := errors.Join(give(t, c, &pb.WatchResponse{Created: true}), give(t, c, &pb.WatchResponse{Created: true, WatchId: 1}),
		give(t, c, &pb.WatchResponse{}, 6)); err != nil {
		t.Fatal(err)
	}
	if err := give(t, c, &pb.WatchResponse{WatchId: 1}, 6); err == nil {
		t.Error("the event of one watcher came to another, and it is no error")
	}
}

func TestAWatchThatDoesNotGoOnIsAnError(t *testing.T) {
	for name, r := range map[string]*pb.WatchResponse{
		"canceled":               {Canceled: true, CancelReason: "it is compacted"},
		"refused":                {Created: true, Canceled: true},
		"created twice":          {Created: true},
		"of nobody":              {WatchId: 9, Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Value: stamp{put: 5}.value(32)}}}},
		"of what others wrote":   {Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Value: []byte("short")}}}},
		"of what others deleted": {Events: []*mvccpb.Event{{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte("k")}}}},
	} {
		c, _ := watching(t, Watches{Watchers: 4})
		if err := give(t, c, &pb.WatchResponse{Created: true}); err != nil {
			t.Fatal(err)
		}
		if err := give(t, c, r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, err := range []error{nil, errors.New("no")} {
		c, _ := watching(t, Watches{Watchers: 4})
		if c.End(1, err) == nil {
			t.Errorf("the server ended a stream with %v, and it is no error", err)
		}
	}
}

// An event that never comes is found when Patience ends, one too many at once.
func TestEventsThatNeverComeAreAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := watching(t, Watches{Watchers: 2})
		c.load.next = 7 // two puts, so four events
		go func() {
			for _, r := range []*pb.WatchResponse{{Created: true}, {Created: true, WatchId: 1}} {
				if err := errors.Join(give(t, c, r), give(t, c, &pb.WatchResponse{WatchId: r.WatchId}, 5)); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(time.Second)
			if err := give(t, c, &pb.WatchResponse{}, 6); err != nil {
				t.Error(err)
			}
		}()
		begun := time.Now()
		err := c.load.Await()
		if err == nil || !strings.Contains(err.Error(), "1 of 4 events are missing") || time.Since(begun) != Patience {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		if err := give(t, c, &pb.WatchResponse{WatchId: 1}, 6, 7); err != nil {
			t.Error(err)
		}
		if err := c.load.Await(); err == nil || !strings.Contains(err.Error(), "1 more events") {
			t.Errorf("with an event too many: %v", err)
		}
	})
}
