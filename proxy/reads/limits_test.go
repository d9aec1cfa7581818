package reads

import (
	"fmt"
	"math"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// limitCases are requests to a store of ten keys below "a/", each 100 bytes and more, whose modification revisions fall
// as their keys ascend; and what becomes of them with a limit of `most` keys.
var limitCases = []struct {
	name    string
	m       *pb.RangeRequest
	most    int64
	refused bool
}{
	{"fewer than allowed", &pb.RangeRequest{}, 11, false},
	{"as many as allowed", &pb.RangeRequest{}, 10, false},
	{"one too many", &pb.RangeRequest{}, 9, true},
	{"no limit at all", &pb.RangeRequest{}, 0, false},
	{"the largest limit", &pb.RangeRequest{}, math.MaxInt64, false},
	{"a page", &pb.RangeRequest{Limit: 5}, 5, false},
	{"a page that is too long", &pb.RangeRequest{Limit: 6}, 5, true},
	{"a long page of a short range", &pb.RangeRequest{Limit: 1000}, 10, false},
	{"a negative limit", &pb.RangeRequest{Limit: -1}, 9, true},
	{"a count", &pb.RangeRequest{CountOnly: true}, 5, false},
	{"keys only", &pb.RangeRequest{KeysOnly: true}, 5, true},
	{"few pass a filter", &pb.RangeRequest{MinModRevision: 7}, 5, false},
	{"many pass a filter", &pb.RangeRequest{MinModRevision: 6}, 5, true},
	{"sorted before it is cut", &pb.RangeRequest{SortTarget: pb.RangeRequest_MOD, SortOrder: pb.RangeRequest_ASCEND}, 10, false},
	{"sorted, a page", &pb.RangeRequest{SortTarget: pb.RangeRequest_MOD, SortOrder: pb.RangeRequest_ASCEND, Limit: 3}, 5, false},
	{"sorted after it is cut", &pb.RangeRequest{SortTarget: pb.RangeRequest_MOD, Limit: 20}, 10, false},
	{"sorted, too many", &pb.RangeRequest{SortTarget: pb.RangeRequest_MOD}, 9, true},
}

func limitScene(t *testing.T, s *scene) {
	t.Helper()
	for i := 9; i >= 0; i-- {
		s.write(op{key: fmt.Sprintf("a/%d", i), value: make([]byte, 100)})
	}
	s.keep(ofPrefix("a/"), plenty)
}

func TestUnboundedReadsAreRefusedAndOthersAreAnsweredAsWithoutALimit(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		limitScene(t, s)
		for _, c := range limitCases {
			s.keeper.cfg.MaxKeys = c.most
			m := proto.Clone(c.m).(*pb.RangeRequest)
			m.Key, m.RangeEnd, m.Serializable = []byte("a/"), []byte("a0"), true
			for _, from := range []struct {
				name string
				read func(*pb.RangeRequest) (mem.BufferSlice, error)
			}{{"memory", s.rangeOf}, {"upstream", s.forwardedRange}} {
				got, err := from.read(m)
				if c.refused {
					if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "--max-range-keys") {
						t.Errorf("%s, from %s: error %v; want ResourceExhausted that names the flag", c.name, from.name, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s, from %s: %v", c.name, from.name, err)
					continue
				}
				want, err := s.answer(m, s.revision())
				if err != nil {
					t.Fatal(err)
				}
				same(t, got, want)
			}
		}
	})
}

// forwardedRange is what a proxy makes of a Range that is forwarded.
func (s *scene) forwardedRange(m *pb.RangeRequest) (mem.BufferSlice, error) {
	r := request(s.t, m)
	ask, bounded := s.keeper.Bound(r)
	if bounded && ask.Limit != s.keeper.cfg.MaxKeys+1 {
		s.t.Errorf("bounded by %d; want one more than allowed", ask.Limit)
	}
	var asked pb.RangeRequest
	if err := proto.Unmarshal(wire.AppendRangeRequest(nil, &ask), &asked); err != nil {
		s.t.Fatal(err)
	}
	resp, err := s.answer(&asked, s.revision())
	if err != nil {
		s.t.Fatal(err)
	}
	raw := encode(fromUpstream(resp))
	return mem.BufferSlice{mem.SliceBuffer(raw)}, s.keeper.CheckAnswer(r, raw)
}

func TestLongReadsAreRefused(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		limitScene(t, s)
		one := len(encode(s.in([]byte("a/0"), nil, s.revision())[0]))
		end := []byte("a0")
		for _, c := range []struct {
			name    string
			m       *pb.RangeRequest
			most    int
			refused bool
		}{
			{"as long as allowed", &pb.RangeRequest{RangeEnd: end}, 10 * one, false},
			{"a byte too long", &pb.RangeRequest{RangeEnd: end}, 10*one - 1, true},
			{"a page", &pb.RangeRequest{RangeEnd: end, Limit: 3}, 3 * one, false},
			{"a page that is too long", &pb.RangeRequest{RangeEnd: end, Limit: 4}, 3 * one, true},
			{"keys only", &pb.RangeRequest{RangeEnd: end, KeysOnly: true}, 3 * one, false},
			{"a page of one key", &pb.RangeRequest{RangeEnd: end, Limit: 1}, one - 1, false},
			{"a single key", &pb.RangeRequest{Key: []byte("a/1")}, one - 1, false},
			{"a count", &pb.RangeRequest{RangeEnd: end, CountOnly: true}, 1, false},
		} {
			s.keeper.cfg.MaxBytes = int64(c.most)
			if c.m.Key == nil {
				c.m.Key = []byte("a/")
			}
			for _, read := range []func(*pb.RangeRequest) (mem.BufferSlice, error){s.rangeOf, s.forwardedRange} {
				_, err := read(c.m)
				refused := status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "--max-range-bytes")
				if refused != c.refused || !refused && err != nil {
					t.Errorf("%s: error %v; want refused %v", c.name, err, c.refused)
				}
			}
		}
	})
}

func TestAnswerThatCannotBeReadIsAnError(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.keeper.cfg.MaxKeys = 5
		if err := s.keeper.CheckAnswer(&wire.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b")}, wire.Raw{0xff}); err == nil {
			t.Error("a malformed answer passed")
		}
	})
}
