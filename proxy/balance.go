package proxy

import (
	"context"
	"time"
)

// Clients are those of this proxy. grpcapi.Server satisfies it.
type Clients interface {
	// Connections is how many connections there are.
	Connections() int
	// Move asks the clients of up to n connections to come again on others, at moments spread over a time.
	Move(ctx context.Context, n int, spread time.Duration)
}

// balanceInterval is from one look at the other proxies to the next.
const balanceInterval = 5 * time.Second

// Balance asks some clients to move while this proxy has far more connections than those that are registered beside it, until ctx
// ends. It returns at once if this one is not registered. It is called once.
//
// Each proxy tells its number with its registration, and sheds for itself: nobody decides for others, so that nothing has to be
// agreed on. It sheds nothing while it is alone, or upstream cannot be read.
func (p *Proxy) Balance(ctx context.Context, clients Clients) {
	if p.registry == nil {
		return
	}
	var b balancer
	for pause(ctx, balanceInterval) {
		own := clients.Connections()
		others, err := p.registry.exchange(ctx, own)
		if err != nil {
			p.registry.log.Debug("connections of other proxies are not known", "error", err)
			others = nil
		}
		if n := b.shed(own, others); n > 0 {
			p.registry.log.Info("clients are asked to move", "connections", own, "to-move", n, "of-others", others)
			clients.Move(ctx, n, balanceInterval)
		}
	}
}

// balancer decides round by round how many connections are to be shed. The zero value has shed nothing yet.
//
// A proxy is too full with a fifth more than the mean, and a few; it sheds what it has above the mean, but a quarter of its
// connections at most. That has to be so in two rounds one after the other, the second of which has numbers that were told after the
// last move. Clients who come back, because they know no other proxy or their balancer knows better, are left alone: each time that
// less than a quarter of those asked have gone, the rounds until the next attempt are doubled. So they are where many attempts have
// not been enough: a proxy that is registered and that no client comes to leaves the others too full for ever, however often these
// send each other their clients.
type balancer struct {
	full  int // rounds, one after the other, in which it was too full
	rest  int // rounds to wait
	pause int // how many those were the last time
	asked int // connections in the last move; 0 if what became of it is known
	had   int // connections before it
	tried int // moves since it was calm
	calm  int // rounds, one after the other, in which it was not too full
}

const (
	fullRounds    = 2
	maxRestRounds = 720 // an hour
	maxMoves      = 12  // with which a proxy that has all clients comes near the mean of twenty
	calmRounds    = 120 // ten minutes, after which what was tried is forgotten
	slack         = 10  // connections that nobody is moved for
)

// shed returns how many connections to move now, given how many this proxy has and the others have.
func (b *balancer) shed(own int, others []int) int {
	if b.rest > 0 {
		b.rest--
		return 0
	}
	sum := own
	for _, n := range others {
		sum += n
	}
	mean := sum / (len(others) + 1)
	if len(others) == 0 || own <= mean+mean/5+slack {
		b.full, b.asked = 0, 0
		if b.calm++; b.calm >= calmRounds {
			*b = balancer{}
		}
		return 0
	}
	b.calm = 0
	if b.full++; b.full < fullRounds {
		return 0
	}
	if b.asked > 0 && (b.tried >= maxMoves || own > b.had-b.asked/4) {
		b.pause = min(max(2*b.pause, fullRounds), maxRestRounds)
		b.rest, b.full, b.asked = b.pause, 0, 0
		return 0
	}
	if b.asked > 0 {
		b.pause = 0
	}
	b.full, b.asked, b.had = 0, min(own-mean, max(own/4, 1)), own
	b.tried++
	return b.asked
}

// toldCount is what was written last of this proxy's connections.
type toldCount struct {
	lease       int64
	connections int
}

// differs tells whether it is worth a write that there are so many now.
func (t toldCount) differs(now toldCount) bool {
	d := max(now.connections-t.connections, t.connections-now.connections)
	return t.lease != now.lease || d > max(slack/4, t.connections/20)
}

// maxTold bounds what is believed of others. A key can hold anything, and what is out of bounds would have everybody leave.
const maxTold = 1 << 24

// exchange tells the others how many connections this proxy has, and returns how many they have, as far as they tell.
//
// It writes the key only while that is this process's, or nobody's: the next process may be there already and have registered the
// same URL, and the key would go from its lease to this one's, and with that. Nobody's it is when that has happened none the less.
func (g *registry) exchange(ctx context.Context, own int) ([]int, error) {
	entries, err := g.entries(ctx)
	if err != nil {
		return nil, err
	}
	var others []int
	now, there, ours := toldCount{g.lease.Load(), own}, false, true
	for _, e := range entries {
		switch {
		case e.key == g.prefix+g.cfg.URL:
			there, ours = true, e.lease == now.lease
		case e.Addr != g.cfg.URL && e.by.Connections != nil && *e.by.Connections >= 0 && *e.by.Connections <= maxTold:
			others = append(others, *e.by.Connections)
		}
	}
	if now.lease != 0 && ours && (!there || g.told.differs(now)) {
		if err := g.put(ctx, now.lease, registeredBy{g.name, &own}); err != nil {
			return nil, err
		}
		g.told = now
	}
	return others, nil
}
