package access

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// judgedCluster has a user alice who may read and write [a, b), write [w, x) and read [r, s); leases 1 with a key of hers, 2
// with one of another user's; and the lock queues a1/ and w1/.
func judgedCluster() *cluster {
	c := newGuardedCluster(map[string][]string{"alice": {"a", "r", "w"}})
	c.roles["a"] = []*authpb.Permission{permission(authpb.READWRITE, "a", "b")}
	c.roles["r"] = []*authpb.Permission{permission(authpb.READ, "r", "s")}
	c.roles["w"] = []*authpb.Permission{permission(authpb.WRITE, "w", "x")}
	c.leases = map[int64][]string{1: {"a1"}, 2: {"a2", "z"}}
	return c
}

func textOrNone(err error) string {
	if err == nil {
		return allowed
	}
	return textOf(err)
}

func TestWhoShowsACertificateIsToldWhatEtcdTellsThem(t *testing.T) {
	for _, own := range []string{"user", "certificate"} {
		bubble.Test(t, func(t *testing.T) {
			c := judgedCluster()
			user := "root"
			if own == "certificate" {
				c.certificate, user = "root", ""
			}
			g := newGuard(t, c, user, nil)
			for _, test := range judgements {
				raw := encode(t, test.req)
				for name, want := range map[string]string{"alice": test.alice, "ghost": test.ghost, "root": allowed} {
					if want == allowed && name == "root" && test.alice == noKey {
						want = noKey
					}
					ctx, err := g.Outgoing(withCertificateIn(t.Context(), name), "/"+test.method, raw)
					if got := textOrNone(err); got != want {
						t.Errorf("%s of %s with %v: %q, want %q", test.method, name, test.req, got, want)
					}
					if err == nil && (tokenIn(ctx) == "") != (own == "certificate") {
						t.Errorf("%s of %s is sent with the token %q", test.method, name, tokenIn(ctx))
					}
				}
			}
		})
	}
}

func TestRefusalsHaveEtcdsCodes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := judgedCluster()
		c.certificate = "root"
		g := newGuard(t, c, "", nil)
		for _, test := range []struct {
			name, method string
			req          proto.Message
			want         error
		}{
			{"alice", pb.KV_Put_FullMethodName, &pb.PutRequest{Key: b("z")}, rpctypes.ErrGRPCPermissionDenied},
			{"alice", pb.KV_Put_FullMethodName, &pb.PutRequest{}, rpctypes.ErrGRPCEmptyKey},
			{"ghost", pb.Auth_UserList_FullMethodName, &pb.AuthUserListRequest{}, rpctypes.ErrGRPCUserNotFound},
			{"", pb.Auth_UserList_FullMethodName, &pb.AuthUserListRequest{}, rpctypes.ErrGRPCUserEmpty},
			{"", pb.KV_Put_FullMethodName, &pb.PutRequest{Key: b("a")}, rpctypes.ErrGRPCPermissionDenied},
			{"alice", lockpb.Lock_Lock_FullMethodName, &lockpb.LockRequest{Name: b("z")}, status.Error(codes.Unknown, denied)},
		} {
			_, err := g.Outgoing(withCertificateIn(t.Context(), test.name), test.method, encode(t, test.req))
			if status.Code(err) != status.Code(test.want) || textOf(err) != textOf(test.want) {
				t.Errorf("%s of %q: %v, want %v", test.method, test.name, err, test.want)
			}
		}
	})
}

// Upstream would take who shows nothing for the proxy, if that shows a certificate.
func TestNobodyDoesNotGetTheRightsOfTheProxysCertificate(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, name := range []string{"root", "reader"} {
			c := judgedCluster()
			c.certificate = name
			g := newGuard(t, c, "", nil)
			for _, test := range judgements {
				for who, ctx := range map[string]context.Context{"nobody": t.Context(), "the certificate": withCertificateIn(t.Context(), "ghost")} {
					if name == "root" && who != "nobody" {
						continue
					}
					_, err := g.Outgoing(ctx, "/"+test.method, encode(t, test.req))
					want := empty
					switch test.method {
					case "etcdserverpb.Auth/Authenticate", "etcdserverpb.Auth/AuthStatus", "grpc.health.v1.Health/Check":
						want = allowed
					case "etcdserverpb.Watch/Watch":
						if test.alice == allowed && test.ghost == allowed {
							want = allowed
						}
					case "etcdserverpb.KV/Txn":
						if test.ghost == allowed {
							want = allowed // an empty one is asked for by nobody in particular
						}
					}
					if test.alice == noKey {
						want = noKey
					}
					if got := textOrNone(err); got != want {
						t.Errorf("%s of %s with %v: %q, want %q", test.method, who, test.req, got, want)
					}
				}
			}
		}
	})
}

func TestAClientsTokenGoesUpstreamAsItCame(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, certificate := range []string{"", "root"} {
			c := judgedCluster()
			c.certificate = certificate
			g := newGuard(t, c, "root", nil)
			in := withTokenIn(withCertificateIn(t.Context(), "root"), "x")
			in = metadata.NewOutgoingContext(in, metadata.Pairs("token", "x"))
			out, err := g.Outgoing(in, pb.KV_Compact_FullMethodName, nil)
			if err != nil || out != in {
				t.Errorf("another context, error %v", err)
			}
			if g.Renew(out, rpctypes.ErrGRPCInvalidAuthToken) {
				t.Error("a client's call is to be repeated")
			}
		}
	})
}

func TestWithoutTheRoleRootACertificateIsNobodys(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, user := range []string{"reader", "alice", "unknown", ""} {
			c := judgedCluster()
			g := newGuard(t, c, user, nil)
			in := withCertificateIn(t.Context(), "alice")
			if out, err := g.Outgoing(in, pb.KV_Range_FullMethodName, encode(t, &pb.RangeRequest{Key: b("a")})); err != nil || tokenIn(out) != "" {
				t.Errorf("own user %q: token %q, error %v", user, tokenIn(out), err)
			}
			if g.MayRead(in, keys("a", "")...) {
				t.Errorf("own user %q: a certificate counts", user)
			}
		}
	})
}

func TestWhileAuthenticationIsOffEverybodyIsNobody(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, certificate := range []string{"", "root"} {
			c := judgedCluster()
			c.enabled, c.certificate = false, certificate
			g := newGuard(t, c, "", nil)
			put := encode(t, &pb.PutRequest{Key: b("z")})
			in := withCertificateIn(t.Context(), "alice")
			out, err := g.Outgoing(in, pb.KV_Put_FullMethodName, put)
			if err != nil {
				t.Fatal(err)
			}
			// It has been turned on meanwhile: upstream must not take the request for the proxy's.
			c.enabled = true
			_, err = c.Call(out, pb.KV_Range_FullMethodName, encode(t, &pb.RangeRequest{Key: b("z")}))
			if !isRefusal(err) {
				t.Fatalf("certificate %q: upstream answers as the proxy: %v", certificate, err)
			}
			if certificate == "" {
				continue
			}
			if !g.Renew(out, err) {
				t.Error("the call is not to be repeated")
			}
			if _, err = g.Outgoing(in, pb.KV_Put_FullMethodName, put); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Errorf("error %v", err)
			}
		}
	})
}

func TestAStreamThatIsTheProxysOwnIsJudgedAlsoWhenAuthenticationSeemsOff(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, certificate := range []string{"", "root"} {
			c := judgedCluster()
			c.certificate = certificate
			user := "root"
			if certificate != "" {
				user = ""
			}
			g := newGuard(t, c, user, nil)
			stream, err := g.Judge(withCertificateIn(t.Context(), "alice"), pb.Watch_Watch_FullMethodName, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.change(func() { c.enabled = false })
			mustRegime(t, g, c)
			time.Sleep(2 * time.Second)
			mustRegime(t, g, c)
			c.set(func() { c.enabled = true })
			time.Sleep(time.Second + time.Nanosecond)
			if _, err := g.Judge(stream, pb.Watch_Watch_FullMethodName, encode(t, watchOf("z", ""))); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Errorf("certificate %q: error %v", certificate, err)
			}
		}
	})
}

func TestWhatIsNotUnderstoodIsForAdministratorsOnly(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := judgedCluster()
		g := newGuard(t, c, "root", nil)
		unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
		inOp := func(m proto.Message) wire.Raw {
			o := op(m)
			o.ProtoReflect().SetUnknown(unknown)
			return encode(t, &pb.TxnRequest{Success: []*pb.RequestOp{o}})
		}
		for name, test := range map[string]struct {
			method string
			raw    wire.Raw
		}{
			"range":     {pb.KV_Range_FullMethodName, append(encode(t, &pb.RangeRequest{Key: b("a")}), unknown...)},
			"put":       {pb.KV_Put_FullMethodName, append(encode(t, &pb.PutRequest{Key: b("a")}), unknown...)},
			"delete":    {pb.KV_DeleteRange_FullMethodName, append(encode(t, &pb.DeleteRangeRequest{Key: b("a")}), unknown...)},
			"txn":       {pb.KV_Txn_FullMethodName, append(encode(t, &pb.TxnRequest{}), unknown...)},
			"operation": {pb.KV_Txn_FullMethodName, inOp(&pb.PutRequest{Key: b("a")})},
			"new operation": {pb.KV_Txn_FullMethodName, encode(t, &pb.TxnRequest{Success: []*pb.RequestOp{func() *pb.RequestOp {
				o := &pb.RequestOp{}
				o.ProtoReflect().SetUnknown(unknown)
				return o
			}()}})},
			"watch": {pb.Watch_Watch_FullMethodName, append(encode(t, watchOf("a", "")), unknown...)},
		} {
			_, err := g.Outgoing(withCertificateIn(t.Context(), "alice"), test.method, test.raw)
			if !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Errorf("%s: error %v", name, err)
			}
			if _, err := g.Outgoing(withCertificateIn(t.Context(), "root"), test.method, test.raw); err != nil {
				t.Errorf("%s of an administrator: error %v", name, err)
			}
		}
		for method := range rules {
			raw := wire.Raw{0xff, 0xff}
			_, err := g.Outgoing(withCertificateIn(t.Context(), "alice"), method, raw)
			_, decodes := map[string]bool{pb.Lease_LeaseGrant_FullMethodName: true, pb.Lease_LeaseLeases_FullMethodName: true,
				pb.Cluster_MemberList_FullMethodName: true, pb.Maintenance_Status_FullMethodName: true,
				pb.Auth_Authenticate_FullMethodName: true, pb.Auth_AuthStatus_FullMethodName: true, pb.KV_Compact_FullMethodName: true,
				"/grpc.health.v1.Health/Check": true, "/grpc.health.v1.Health/Watch": true}[method]
			if !decodes && status.Code(err) != codes.Internal {
				t.Errorf("%s that cannot be decoded: error %v", method, err)
			}
		}
	})
}

// randomTxn is a transaction, in two forms: as it is sent, and as what it asks for.
func randomTxn(rng *rand.Rand, depth int) (m *pb.TxnRequest, asks []ask) {
	m = &pb.TxnRequest{}
	for range rng.IntN(2) {
		key, end := randomRange(rng)
		m.Compare = append(m.Compare, compare(key, end))
		asks = append(asks, ask{false, key, end})
	}
	for range rng.IntN(3) {
		var o *pb.RequestOp
		key, end := randomRange(rng)
		prev := rng.IntN(2) == 0
		switch n := rng.IntN(4); {
		case n == 0:
			o = op(&pb.RangeRequest{Key: b(key), RangeEnd: b(end)})
			asks = append(asks, ask{false, key, end})
		case n == 1:
			o = op(&pb.PutRequest{Key: b(key), PrevKv: prev})
			asks = append(asks, ask{true, key, ""})
			if prev {
				asks = append(asks, ask{false, key, ""})
			}
		case n == 2:
			o = op(&pb.DeleteRangeRequest{Key: b(key), RangeEnd: b(end), PrevKv: prev})
			asks = append(asks, ask{true, key, end})
			if prev {
				asks = append(asks, ask{false, key, end})
			}
		case depth > 0:
			inner, more := randomTxn(rng, depth-1)
			o = op(inner)
			asks = append(asks, more...)
		default:
			continue
		}
		if rng.IntN(2) == 0 {
			m.Success = append(m.Success, o)
		} else {
			m.Failure = append(m.Failure, o)
		}
	}
	return m, asks
}

type ask struct {
	write    bool
	key, end string
}

func TestATransactionIsAllowedExactlyIfAllThatItAsksForIs(t *testing.T) {
	rng := seedOf(t)
	bubble.Test(t, func(t *testing.T) {
		c := newGuardedCluster(map[string][]string{"alice": {"one", "two"}})
		g := newGuard(t, c, "root", nil)
		verdicts := map[bool]int{}
		for range 100 {
			c.change(func() {
				c.roles["one"], c.roles["two"] = randomPermissions(rng), randomPermissions(rng)
				if rng.IntN(2) == 0 {
					c.roles["one"] = append(c.roles["one"], permission(authpb.READWRITE, "\x00", "b"), permission(authpb.READWRITE, "b", "\x00"))
				}
			})
			time.Sleep(time.Second + time.Nanosecond)
			for range 20 {
				m, asks := randomTxn(rng, 2)
				_, err := g.Outgoing(withCertificateIn(t.Context(), "alice"), pb.KV_Txn_FullMethodName, encode(t, m))
				want := true
				for _, a := range asks {
					if a.end != "" && a.end != "\x00" && a.end <= a.key {
						a.end = ""
					}
					want = want && c.may("alice", a.write, a.key, a.end)
				}
				if want != (err == nil) || err != nil && !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
					t.Fatalf("%v asks for %v of %v and %v: %v, want %v", m, asks, c.roles["one"], c.roles["two"], err, want)
				}
				verdicts[want]++
			}
		}
		if verdicts[true] < 100 || verdicts[false] < 100 {
			t.Errorf("too much of the same: %v", verdicts)
		}
	})
}
