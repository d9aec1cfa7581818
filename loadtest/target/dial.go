package target

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Serves asks for a linearizable read at addr, which is answered, or refused for want of an identity, only when the whole
// path to a leader works.
func Serves(addr string) func(context.Context) error { return serves(addr, nil) }

func serves(addr string, tls *TLS) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := dial(addr, tls)
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("ready"), CountOnly: true})
		if status.Convert(err).Message() == status.Convert(rpctypes.ErrGRPCUserEmpty).Message() {
			return nil
		}
		return err
	}
}

// Dial opens a connection for raw requests. It reconnects quickly, since the tests stop and start servers, and takes
// answers of any size.
func Dial(addr string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	return dial(addr, nil, more...)
}

func dial(addr string, t *TLS, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if t != nil {
		creds = credentials.NewTLS(t.Client.Clone())
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, append(opts, more...)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return conn, nil
}
