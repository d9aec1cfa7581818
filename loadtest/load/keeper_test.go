package load

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/client"
)

// keeping is a client of two leases, 100 and 101, the first of which has a ping under way.
func keeping() (*keeper, *counted) {
	track := &counted{}
	k := &keeper{track: track, first: 100, leases: []kept{{granted: true, sent: time.Now()}, {granted: true}},
		load: &Keepers{leases: Leases{Clients: 1, Leases: 2, TTL: 30, InFlight: 1}, answered: newTally()}}
	k.load.stopping.Store(true) // it has no connection to ping over
	return k, track
}

func pong(t *testing.T, k *keeper, id, ttl int64) error {
	t.Helper()
	m, err := proto.Marshal(&pb.LeaseKeepAliveResponse{ID: id, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return k.Message(1, m)
}

func TestAnAnsweredPingCountsOnce(t *testing.T) {
	k, track := keeping()
	if err := pong(t, k, 100, 30); err != nil || track.answers != 1 || k.load.answered.came.Load() != 1 {
		t.Errorf("error %v, counted %+v", err, *track)
	}
	if err := pong(t, k, 100, 30); err == nil {
		t.Error("a second answer is no error")
	}
}

func TestWhatALeaseIsNotToBeToldIsAnError(t *testing.T) {
	for _, test := range []struct {
		name    string
		id, ttl int64
		want    string
	}{
		{"it is lost", 100, 0, "lost"},
		{"it was not pinged", 101, 30, "not sent"},
		{"it is another's", 102, 30, "not sent"},
		{"it is before the first", 99, 30, "not sent"},
	} {
		k, track := keeping()
		if err := pong(t, k, test.id, test.ttl); err == nil || !strings.Contains(err.Error(), test.want) || track.answers != 0 {
			t.Errorf("%s: error %v, %d counted", test.name, err, track.answers)
		}
	}
}

func TestALeaseThatIsToBePingedAgainWithoutAnAnswerIsAnError(t *testing.T) {
	k, _ := keeping()
	if err := k.ping(0); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("error %v", err)
	}
}

func TestAStreamOfPingsThatEndsIsAnErrorUnderLoad(t *testing.T) {
	k, _ := keeping()
	no := errors.New("no")
	if err := k.End(1, no); !errors.Is(err, no) {
		t.Errorf("error %v", err)
	}
	if err := k.End(1, nil); err == nil {
		t.Error("no error of a stream that ended well")
	}
}

// A server that is silent does not end a turn well, and does not keep it from ending.
func TestPingsWithoutAnAnswerAreAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := keeping()
		k.sent = 3
		k.load.keepers = []*keeper{k}
		k.load.group = client.NewGroup(t.Context())
		defer k.load.Close()
		k.load.answered.add(1)
		begun := time.Now()
		if err := k.load.Stop(); err == nil || !strings.Contains(err.Error(), "2 of 3 answers to pings are missing") || time.Since(begun) != Patience {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
	})
}
