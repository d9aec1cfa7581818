package reads

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// The limit of keys holds whatever is in a request's metadata that has it forwarded, exactly from the first too many on.
func TestNoMetadataGetsPastTheLimitOfKeys(t *testing.T) {
	t.Parallel()
	const most = 20
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyCore}, func(s *site) {
		direct, c := s.member(), s.dial()
		direct.putAll(targettest.Keys("/a/", most), "value")
		read := func(with string, r *pb.RangeRequest) (*pb.RangeResponse, error) {
			return c.kv.Range(metadata.AppendToOutgoingContext(s.Ctx, with, "true"), r)
		}
		ways := []string{"weir-uncached", "hasleader", "token"}
		requests := []*pb.RangeRequest{below("/a/"), serializable(below("/a/")), fromKey("/a/")}
		for _, with := range ways {
			for _, r := range requests {
				resp, err := read(with, r)
				if err == nil {
					err = sameAnswer(resp, direct.get(r))
				}
				if err != nil {
					s.Errorf("with %s, as much as is allowed: %v: %v", with, r, err)
				}
			}
		}
		direct.put("/a/z", "one too many")
		for _, with := range ways {
			for _, r := range requests {
				if _, err := read(with, r); status.Code(err) != codes.ResourceExhausted {
					s.Errorf("with %s, one too many: %v: %v", with, r, err)
				}
			}
		}
	}, cacheAll, fmt.Sprintf("--max-range-keys=%d", most))
}
