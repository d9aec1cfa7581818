package proxy

import (
	"errors"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"weir/grpcapi/wire"
)

// A member with authentication on knows the proxy by a token or by a certificate, and refuses tokens that it has not given.
func TestMemberIsAskedAsNobodyWithoutAnyIdentityOfTheProxys(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   error
	}{
		"a user":             {func(cfg *Config) { cfg.User, cfg.Password = "proxy", "secret" }, rpctypes.ErrGRPCUserEmpty},
		"a certificate":      {func(cfg *Config) { cfg.ClientCertificate, cfg.CommonName = true, "proxy" }, rpctypes.ErrGRPCInvalidAuthToken},
		"nobody in any case": {func(*Config) {}, rpctypes.ErrGRPCUserEmpty},
	} {
		t.Run(name, func(t *testing.T) {
			var (
				cfg  Config
				mu   sync.Mutex // guards sent
				sent []string   // tokens with which keys were read, by this test
			)
			c.change(&cfg)
			asked := []byte("asked by the test")
			p := beforeAs(t, c.change, map[string]func(grpc.ServerStream) error{
				pb.Auth_Authenticate_FullMethodName: answers(&pb.AuthenticateResponse{Token: "given"}),
				pb.KV_Range_FullMethodName: func(s grpc.ServerStream) error {
					md, _ := metadata.FromIncomingContext(s.Context())
					token := slices.Concat(md["token"], []string{""})[0]
					var req wire.Raw
					var r wire.RangeRequest
					if err := s.RecvMsg(&req); err != nil {
						return err
					}
					if r.Unmarshal(req) == nil && string(r.Key) == string(asked) {
						mu.Lock()
						sent = append(sent, token)
						mu.Unlock()
					}
					switch {
					case token == "" && cfg.CommonName == "":
						return rpctypes.ErrGRPCUserEmpty
					case token != "" && token != "given":
						return rpctypes.ErrGRPCInvalidAuthToken
					}
					return s.SendMsg(&pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 5}})
				},
			})
			m, err := feedUpstream{p.upstream, p.guard}.Member(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			req := wire.AppendRangeRequest(nil, &wire.RangeRequest{Key: asked})
			if _, err := m.Call(t.Context(), pb.KV_Range_FullMethodName, req); p.guard.HasIdentity() != (err == nil) {
				t.Errorf("in the proxy's own name: %v", err)
			}
			mu.Lock()
			sent = nil
			mu.Unlock()
			if _, err := m.CallAsNobody(t.Context(), pb.KV_Range_FullMethodName, req); !errors.Is(err, c.want) {
				t.Errorf("as nobody: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(sent) != 1 || sent[0] == "given" {
				t.Errorf("as nobody it was asked with the tokens %q", sent)
			}
		})
	}
}
