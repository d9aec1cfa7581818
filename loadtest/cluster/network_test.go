package cluster

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weir/loadtest/network"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// newNetwork makes hosts, of which each member gets one. Without the right to, the test is skipped.
func newNetwork(t *testing.T, hosts int) *network.Network {
	t.Helper()
	n, err := network.New(t.Context(), hosts)
	switch {
	case err == nil:
	case os.Geteuid() != 0, errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		t.Skipf("members need hosts of their own: %v", err)
	default:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// harms are what is done to the network between members, in the order in which the rounds take them.
var harms = []struct {
	name string
	do   func(s *netScene, leader int)
}{
	{"leader alone", func(s *netScene, leader int) { s.alone(leader) }},
	{"follower alone", func(s *netScene, leader int) { s.alone(others(leader, s.rng)[0]) }},
	{"leader hears nobody", func(s *netScene, leader int) { s.deaf(leader) }},
	{"nobody hears the leader", func(s *netScene, leader int) { s.mute(leader) }},
	{"follower hears nobody", func(s *netScene, leader int) { s.deaf(others(leader, s.rng)[0]) }},
	{"nobody hears a follower", func(s *netScene, leader int) { s.mute(others(leader, s.rng)[0]) }},
	{"leader and a follower apart", func(s *netScene, leader int) { s.apart(leader, others(leader, s.rng)[0]) }},
	{"followers apart", func(s *netScene, leader int) { o := others(leader, s.rng); s.apart(o[0], o[1]) }},
	{"all alone", func(s *netScene, _ int) { s.everywhere(network.Link{Cut: true}) }},
	{"packets lost", func(s *netScene, _ int) { s.everywhere(network.Link{Loss: 0.1}) }},
	{"packets late", func(s *netScene, _ int) {
		s.everywhere(network.Link{Delay: 30 * time.Millisecond, Jitter: 50 * time.Millisecond})
	}},
	{"packets doubled and out of order", func(s *netScene, _ int) {
		s.everywhere(network.Link{Delay: 5 * time.Millisecond, Reorder: 0.2, Duplicate: 0.2})
	}},
	{"links come and go", func(s *netScene, _ int) { s.flap() }},
}

// netScene is a scene whose members have hosts of their own.
type netScene struct {
	*scene
	network *network.Network
}

func newNetScene(t *testing.T, kind target.Kind, timeout time.Duration) *netScene {
	t.Helper()
	n := newNetwork(t, members)
	return &netScene{newScene(t, kind, targettest.SiteOptions{Timeout: timeout, Network: n}), n}
}

// Whatever happens to packets between members, nothing that was promised is lost.
func TestBrokenNetworksLoseNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   target.Kind
		rounds int
	}{
		{target.Etcd37, min(*partitions, 3)}, // proves the test
		{target.Core, *partitions},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			s := newNetScene(t, c.kind, time.Minute+time.Duration(c.rounds)*20*time.Second)
			for i := range c.rounds {
				h := harms[i%len(harms)]
				s.round(h.name, func() {
					h.do(s, s.leader())
					s.pause(2 * time.Second)
					s.network.Mend()
				})
			}
			s.finish()
		})
	}
}

func (s *netScene) alone(one int) {
	s.deaf(one)
	s.mute(one)
}

// deaf lets a member hear no other.
func (s *netScene) deaf(one int) {
	for i := range members {
		s.network.Set(i, one, network.Link{Cut: true})
	}
}

// mute lets no other member hear one.
func (s *netScene) mute(one int) {
	for i := range members {
		s.network.Set(one, i, network.Link{Cut: true})
	}
}

func (s *netScene) apart(a, b int) {
	s.network.Set(a, b, network.Link{Cut: true})
	s.network.Set(b, a, network.Link{Cut: true})
}

func (s *netScene) everywhere(l network.Link) {
	for a := range members {
		for b := range members {
			s.network.Set(a, b, l)
		}
	}
}

func (s *netScene) flap() {
	for range 10 {
		s.network.Set(s.rng.IntN(members), s.rng.IntN(members), network.Link{Cut: true})
		s.pause(200 * time.Millisecond)
		s.network.Set(s.rng.IntN(members), s.rng.IntN(members), network.Link{})
	}
}

// The same with tc-netem(8) on the members' devices, where the kernel has it: it is what others trust.
func TestNetemLosesNothing(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, members)
	probe := n.Command(0, "tc", "qdisc", "replace", "dev", n.Device(0), "root", "netem", "delay", "0ms")
	if out, err := exec.CommandContext(t.Context(), probe[0], probe[1:]...).CombinedOutput(); err != nil {
		t.Skipf("the kernel has no netem, or there is no tc: %v: %s", err, strings.TrimSpace(string(out)))
	}
	s := &netScene{newScene(t, target.Core, targettest.SiteOptions{Timeout: 2 * time.Minute, Network: n}), n}
	for _, netem := range []string{"delay 30ms 20ms", "loss 10%", "duplicate 10% reorder 20% delay 5ms", "loss 100%"} {
		s.round("netem "+netem, func() {
			for host := range members {
				if netem != "loss 100%" || host == s.leader() {
					s.netem(host, netem)
				}
			}
			s.pause(2 * time.Second)
			for host := range members {
				s.netem(host, "delay 0ms")
			}
		})
	}
	s.finish()
}

// netem shapes what a host sends, to clients too.
func (s *netScene) netem(host int, how string) {
	s.Helper()
	args := append([]string{"tc", "qdisc", "replace", "dev", s.network.Device(host), "root", "netem"}, strings.Fields(how)...)
	c := s.network.Command(host, args...)
	ctx, cancel := context.WithTimeout(s.Ctx, 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
		s.Fatalf("%v: %v: %s", args, err, out)
	}
}
