package bench

import (
	"context"
	"fmt"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/target"
)

// watchLoad is all clients of one target in one turn: the watchers, and one who writes what they watch.
type watchLoad struct {
	*load.Watchers
	target  *target.Target
	watches load.Watches
	tracks  *tracks // of what deliver has delivered
}

func newWatchLoad(ctx context.Context, tg *target.Target, s Scenario, connections int) (*watchLoad, error) {
	l := &watchLoad{target: tg, tracks: &tracks{}, watches: load.Watches{
		Prefix: "watch/", Watchers: s.Watchers, Connections: connections, SingleKey: s.SingleKey, OwnStream: s.OwnStream,
		ValueSize: s.ValueSize, Puts: s.Puts, Rate: s.Rate,
	}}
	var err error
	if l.Watchers, err = load.NewWatchers(ctx, placeOf(tg, tg.Dial), l.watches, l.tracks.add); err != nil {
		return nil, fmt.Errorf("watchers of %s: %w", tg.Kind, err)
	}
	return l, nil
}

// placeOf is where the clients of a target go, and how they dial for what is no part of the load.
func placeOf(tg *target.Target, dial func() (*grpc.ClientConn, error)) load.Place {
	return load.Place{Endpoint: func(int) string { return tg.Endpoint }, Client: client.Config{TLS: tg.ClientTLS()}, Dial: dial}
}

// deliver writes n times and returns when every watcher has every event of it, with the latencies.
func (l *watchLoad) deliver(n int) (*hdrhistogram.Histogram, error) {
	l.tracks.reset() // nothing comes now: all that was written has arrived
	l.tracks.measuring.Store(true)
	defer l.tracks.measuring.Store(false)
	if err := l.Write(n); err != nil {
		return nil, err
	}
	if err := l.Await(); err != nil {
		return nil, err
	}
	return l.tracks.latencies(), nil
}
