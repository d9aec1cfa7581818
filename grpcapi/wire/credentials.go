package wire

import (
	"context"
	"crypto/tls"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// Credentials is what an RPC shows of who asks. The zero value shows nothing.
type Credentials struct {
	Token    string // not verified
	HasToken bool   // an empty token is one too, and not valid

	CommonName     string // of the client's certificate
	HasCertificate bool   // one that was verified against a CA
}

// gatewayHeader is in the metadata of what comes from an HTTP gateway, etcd's included. The certificate is then the
// gateway's own, and says nothing of who asks.
const gatewayHeader = "grpcgateway-accept"

// CredentialsOf reads an RPC's metadata and its connection's certificate. It is for servers whose clients must show who
// they are: for all others it would be wasted time.
func CredentialsOf(ctx context.Context) (c Credentials) {
	for _, key := range []string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		if v := metadata.ValueFromIncomingContext(ctx, key); len(v) > 0 {
			c.Token, c.HasToken = strings.TrimPrefix(v[0], "Bearer "), true
			break
		}
	}
	if len(metadata.ValueFromIncomingContext(ctx, gatewayHeader)) > 0 {
		return c
	}
	state := connectionState(ctx)
	if state == nil {
		return c
	}
	for _, chain := range state.VerifiedChains {
		if len(chain) > 0 {
			c.CommonName, c.HasCertificate = chain[0].Subject.CommonName, true
			break
		}
	}
	return c
}

// connectionState is nil in plaintext.
func connectionState(ctx context.Context) *tls.ConnectionState {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	switch info := p.AuthInfo.(type) {
	case interface{ ConnectionState() *tls.ConnectionState }: // grpcapi's
		return info.ConnectionState()
	case credentials.TLSInfo: // net/http's
		return &info.State
	}
	return nil
}
