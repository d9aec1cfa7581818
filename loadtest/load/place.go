package load

import (
	"time"

	"google.golang.org/grpc"

	"weir/loadtest/client"
)

// Place is where a load goes.
type Place struct {
	// Endpoint is where the i-th connection goes, host:port.
	Endpoint func(i int) string
	// Client is how to connect to it.
	Client client.Config
	// Dial connects to where the rest is asked for, which is no part of the load: puts that watchers are told of, grants of leases.
	Dial func() (*grpc.ClientConn, error)
}

// Track is given what one connection is answered, by the goroutine that reads the connection.
type Track interface {
	// Done is an answer, now, to what was begun, or due, at a moment, with so many bytes of values.
	Done(begun time.Time, bytes int)
}

// Patience is how long a server may take for what it was asked for, after the last request.
const Patience = 30 * time.Second

// PrefixEnd is the end of the range of all keys below a prefix, whose last byte is not 255.
func PrefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}
