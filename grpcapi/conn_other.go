//go:build !unix

package grpcapi

import "net"

// newReadyReader returns nil: grpc then reads with a buffer of its own.
func newReadyReader(net.Conn) readyReader { return nil }
