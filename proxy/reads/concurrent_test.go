package reads

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/cache"
	"weir/grpcapi/wire"
)

func TestConcurrentReadsAreOfOneStateThatIsNotTooOld(t *testing.T) {
	inScenes(t, func(s *scene, seed uint64) {
		s.keeper.cfg.MaxStaleness = 0
		s.write(randomOps(rand.New(rand.NewPCG(seed, 0)))...)
		s.keep(ofPrefix("a/"), plenty)
		s.keep(ofPrefix("b/"), plenty)
		var all sync.WaitGroup
		for i := range uint64(3) {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(seed, 1+i))
				for range 200 {
					s.set(func() { s.silent = rng.IntN(2) == 0 })
					s.write(randomOps(rng)...)
				}
			})
		}
		for i := range uint64(6) {
			all.Go(func() {
				reader := concurrentReader{s: s, rng: rand.New(rand.NewPCG(seed, 100+i))}
				for range 200 {
					reader.read()
				}
			})
		}
		all.Wait()
	})
}

// randomOps are writes to a few keys below "a/" and "b/".
func randomOps(rng *rand.Rand) []op {
	var ops []op
	for _, prefix := range []string{"a", "b"} {
		ops = append(ops, op{key: fmt.Sprintf("%s/%d", prefix, rng.IntN(30)), value: fmt.Append(nil, rng.IntN(1000))})
	}
	return ops
}

// concurrentReader is one client, whose answers must be states of the store that do not become older: not older than
// when a linearizable read began, and not than what he was told before.
type concurrentReader struct {
	s       *scene
	rng     *rand.Rand
	session cache.Session
	seen    int64
}

func (c *concurrentReader) read() {
	s := c.s
	serializable := c.rng.IntN(2) == 0
	oldest := c.seen
	if !serializable {
		s.set(func() { oldest = s.revision() })
	}
	ranges := []*pb.RangeRequest{
		{Key: []byte("a/"), RangeEnd: []byte("a0"), Serializable: serializable},
		{Key: []byte("b/"), RangeEnd: []byte("b0"), Serializable: serializable, Limit: 5},
	}
	if c.rng.IntN(2) == 0 {
		m := ranges[c.rng.IntN(2)]
		buffers, _, err := s.keeper.Range(s.t.Context(), request(s.t, m), &c.session, s.keeper.up.Standing().Era)
		if err != nil {
			s.t.Errorf("range: %v", err)
			return
		}
		c.check(buffers.Materialize(), oldest, func(rev int64) (response, error) { return s.answer(m, rev) })
		return
	}
	m := &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(ranges[0]), rangeOp(ranges[1])}}
	buffers, _, err := s.keeper.Txn(s.t.Context(), m, &c.session, s.keeper.up.Standing().Era)
	if err != nil {
		s.t.Errorf("txn: %v", err)
		return
	}
	c.check(buffers.Materialize(), oldest, func(rev int64) (response, error) { return s.naive.txn(m, rev) })
}

// check compares an answer with that of the store at the revision that its header states.
func (c *concurrentReader) check(got []byte, oldest int64, answer func(rev int64) (response, error)) {
	h, err := wire.UnmarshalHeader(got)
	if err != nil || h.Revision < oldest {
		c.s.t.Errorf("answer of revision %d, error %v; want one not before %d", h.Revision, err, oldest)
		return
	}
	c.seen = h.Revision
	var want response
	c.s.set(func() { want, err = answer(h.Revision) })
	if err != nil {
		c.s.t.Errorf("revision %d: %v", h.Revision, err)
		return
	}
	if string(got) != string(encode(fromUpstream(want))) {
		c.s.t.Errorf("answer of revision %d is not the state of the store then", h.Revision)
	}
}
