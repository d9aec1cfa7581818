package grpcapi

import (
	"context"
	"fmt"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// loopback is how the server reaches its own gRPC: the gateway does, and what checks that the server answers. That has a
// connection of its own, since --max-concurrent-streams bounds what all users of the gateway have open on theirs.
type loopback struct {
	pipes       *bufconn.Listener
	conn, probe *grpc.ClientConn // connect with the first RPC
}

func newLoopback() *loopback {
	pipes := bufconn.Listen(64 << 10)
	return &loopback{pipes: pipes, conn: dialPipes(pipes), probe: dialPipes(pipes)}
}

func dialPipes(pipes *bufconn.Listener) *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///loopback",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipes.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		// As for the server: what a client of the gateway does not take stays small.
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
	)
	if err != nil {
		panic(fmt.Sprintf("grpcapi: a connection in memory: %v", err)) // only malformed options and targets fail
	}
	return conn
}

func (l *loopback) close() {
	l.conn.Close()
	l.probe.Close()
	l.pipes.Close()
}
