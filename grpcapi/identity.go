package grpcapi

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// carriesIdentity tells whether upstream may take the RPC for somebody's: it has a token, or the client has shown a
// certificate.
func carriesIdentity(ctx context.Context) bool {
	md := incomingMetadata(ctx)
	if len(md[rpctypes.TokenFieldNameGRPC]) > 0 || len(md[rpctypes.TokenFieldNameSwagger]) > 0 {
		return true
	}
	t := tlsOf(ctx)
	return t != nil && len(t.State.PeerCertificates) > 0
}

// tlsOf returns what the handshake of an RPC's connection has shown; nil in plaintext.
func tlsOf(ctx context.Context) *credentials.TLSInfo {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	switch info := p.AuthInfo.(type) {
	case *connection:
		return info.tls
	case credentials.TLSInfo: // of net/http
		return &info
	}
	return nil
}
