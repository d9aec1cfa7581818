package grpcapi

import (
	"sync"
	"sync/atomic"
)

// pingStreams is what all streams of pings of a server have in common. It may be used concurrently. The zero value has no streams.
type pingStreams struct {
	tasks  sync.WaitGroup // goroutines of streams, which end soon after their RPC
	unsent atomic.Int64   // pings of all of them whose answer has not been sent
}

// Each ping whose answer has not been sent takes up to 300 bytes. It need not be waited for: a client may take no answers.
const (
	// maxOpenPings bounds those of one stream, but for the rest of a message, see maxPingBatch.
	maxOpenPings = 4096
	// maxAllOpenPings bounds those of all streams, but for fewOpenPings of each, or a message, which it may have in any case.
	maxAllOpenPings = 1 << 18
	fewOpenPings    = 16
)

// limit is how many such pings a stream must have less than to be read from: as many as are left for others. So the streams that
// have most are the first to wait, and those that begin when little is left come to have as many as they.
func (p *pingStreams) limit() int {
	return int(min(max(maxAllOpenPings-p.unsent.Load(), fewOpenPings), maxOpenPings))
}
