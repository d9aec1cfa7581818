package reads

import (
	"context"
	"fmt"
	"testing"
	"time"

	"weir/cache"
	"weir/grpcapi/wire"
)

// quiet is an upstream in which nothing happens, as cheap to ask as it can be.
type quiet struct {
	sceneUpstream
	since time.Time
	rev   int64
}

func (q *quiet) Check(context.Context) (int64, error) { return q.rev, nil }
func (q *quiet) ProvenAt(int64) time.Time             { return q.since }
func (q *quiet) Header() wire.Header                  { return sceneHeader }
func (q *quiet) Compacted() int64                     { return 1 }
func (q *quiet) Standing() Standing {
	return Standing{Shared: true, Confirmed: true, Connected: true, Era: 7}
}

func BenchmarkRange(b *testing.B) {
	s := newScene(b, Config{MaxStaleness: time.Hour})
	ops := make([]op, 10_000)
	for i := range ops {
		ops[i] = op{key: fmt.Sprintf("bench/%06d", i), value: make([]byte, 256)}
	}
	s.write(ops...)
	s.keep(ofPrefix("bench/"), plenty)
	s.keeper.up = &quiet{sceneUpstream: sceneUpstream{s}, since: time.Now(), rev: s.revision()}
	kept := s.keeper.results
	defer func() { s.keeper.results = kept }()
	none, err := cache.NewResults(0)
	if err != nil {
		b.Fatal(err)
	}
	get := wire.RangeRequest{Key: []byte("bench/004321")}
	list := wire.RangeRequest{Key: []byte("bench/0043"), RangeEnd: []byte("bench/0044")}
	count := wire.RangeRequest{Key: []byte("bench/0043"), RangeEnd: []byte("bench/0044"), CountOnly: true}
	for _, c := range []struct {
		name    string
		r       wire.RangeRequest
		results *cache.Results
	}{
		{"get", get, kept},
		{"count of 100", count, kept},
		{"list of 100, built", list, none},
		{"list of 100, from results", list, kept},
	} {
		for _, serializable := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/serializable=%v", c.name, serializable), func(b *testing.B) {
				c.r.Serializable = serializable
				s.keeper.results = c.results
				var session cache.Session
				ctx := b.Context()
				b.ReportAllocs()
				for b.Loop() {
					resp, _, err := s.keeper.Range(ctx, &c.r, &session, s.keeper.up.Standing().Era)
					if err != nil || resp.Len() == 0 {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
