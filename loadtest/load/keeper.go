package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"weir/loadtest/client"
)

// keeper is the client that has one of the connections.
type keeper struct {
	load  *Keepers
	track Track // its reader's
	conn  *client.Conn
	first int64 // id of its first lease; the others follow

	mu     sync.Mutex // guards the fields below
	rpc    uint32
	leases []kept
	next   int   // which is pinged next, if that is not by the clock
	sent   int64 // pings
	ended  int   // streams
}

// kept is a lease.
type kept struct {
	granted bool
	sent    time.Time // of the ping that is under way; zero if there is none
}

func (k *keeper) grant(ctx context.Context, i int) error {
	r := &pb.LeaseGrantRequest{ID: k.first + int64(i), TTL: k.load.leases.TTL}
	if _, err := pb.NewLeaseClient(k.load.granter).LeaseGrant(ctx, r); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leases[i].granted = true
	return nil
}

// revoke revokes a lease, if it was granted and has not expired.
func (k *keeper) revoke(ctx context.Context, i int) error {
	k.mu.Lock()
	granted := k.leases[i].granted
	k.leases[i].granted = false
	k.mu.Unlock()
	if !granted {
		return nil
	}
	_, err := pb.NewLeaseClient(k.load.granter).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: k.first + int64(i)})
	if status.Code(err) == codes.NotFound {
		return nil
	}
	return err
}

// begin sends the first pings.
func (k *keeper) begin(inFlight int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for range inFlight {
		if err := k.pingNext(); err != nil {
			return err
		}
	}
	return k.conn.Flush()
}

func (k *keeper) pingNext() error {
	i := k.next
	k.next = (i + 1) % len(k.leases)
	return k.ping(i)
}

// ping pings the i-th lease, under the lock. It is sent with the next flush.
func (k *keeper) ping(i int) error {
	lease := &k.leases[i]
	if !lease.sent.IsZero() {
		return fmt.Errorf("a ping has no answer after %v", time.Since(lease.sent))
	}
	lease.sent = time.Now()
	k.sent++
	return k.conn.Post(k.rpc, protowire.AppendVarint([]byte{leaseID << 3}, uint64(k.first+int64(i))))
}

// pingEach pings every so many leases, beginning with the i-th, that are granted.
func (k *keeper) pingEach(i, every int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	some := false
	for ; i < len(k.leases); i += every {
		if !k.leases[i].granted {
			continue
		}
		some = true
		if err := k.ping(i); err != nil {
			return err
		}
	}
	if !some {
		return nil
	}
	return k.conn.Flush()
}

// The numbers of fields in etcd's rpc.proto. The request has the id in its first.
const (
	leaseID         = 1
	pongID, pongTTL = 2, 3
)

// Message is given a LeaseKeepAliveResponse.
func (k *keeper) Message(_ uint32, m []byte) error {
	id, err := client.VarintField(m, pongID)
	if err != nil {
		return err
	}
	ttl, err := client.VarintField(m, pongTTL)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	i := id - k.first
	switch {
	case i < 0 || i >= int64(len(k.leases)) || k.leases[i].sent.IsZero():
		return fmt.Errorf("an answer to a ping of lease %x, which was not sent", id)
	case ttl <= 0:
		return fmt.Errorf("lease %x is lost", id)
	}
	k.track.Done(k.leases[i].sent, 0)
	k.leases[i].sent = time.Time{}
	if k.load.leases.InFlight > 0 && !k.load.stopping.Load() {
		err = k.pingNext()
	}
	k.load.answered.add(1)
	return err
}

// End opens another stream, if pings go by the clock.
func (k *keeper) End(_ uint32, err error) error {
	if k.load.leases.InFlight > 0 || err == nil {
		return errors.Join(errors.New("the server ended a stream of pings"), err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended++
	for i := range k.leases {
		k.leases[i].sent = time.Time{}
	}
	k.rpc, err = k.conn.Open(client.LeaseKeepAlive)
	return err
}
