package proxy

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"
)

// outgoing is ctx for the call upstream: deadline and cancellation stay, the client's metadata goes along.
func outgoing(ctx context.Context) context.Context {
	md, ok := metadata.FromIncomingContext(ctx) // a copy
	if !ok {
		return ctx
	}
	dropHop(md)
	return metadata.NewOutgoingContext(ctx, md)
}

// returning is md of an answer without what belongs to the hop; nil when nothing is left. md is used up.
func returning(md metadata.MD) metadata.MD {
	dropHop(md)
	if len(md) == 0 {
		return nil
	}
	return md
}

// dropHop deletes what describes one connection or message and is set anew on the next one.
func dropHop(md metadata.MD) {
	for k := range md {
		switch {
		case strings.HasPrefix(k, ":"), strings.HasPrefix(k, "grpc-") && k != "grpc-trace-bin" && k != "grpc-tags-bin":
			delete(md, k)
		default:
			switch k {
			case "connection", "content-length", "content-type", "host", "keep-alive", "proxy-connection", "te",
				"trailer", "transfer-encoding", "upgrade", "user-agent":
				delete(md, k)
			}
		}
	}
}
