package coalesce

import "weir/grpcapi/wire"

// PingRoute is where the pings of one client's stream go.
type PingRoute struct {
	// Keepalives is shared by all clients with the same rights; nil is none: the stream is forwarded.
	Keepalives *Keepalives
	// Rights are asked for each ping; nil lets all through.
	Rights wire.PingRights
	// Client is PingSink.Client of the stream.
	Client any
	// Done is called once when the client's stream has ended; nil is not.
	Done func()
}
