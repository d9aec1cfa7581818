package access

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// leaseFindings is what was found out about leases for one request. Its sender may use a lease if he may use all the keys it has,
// which only upstream knows.
//
// The idea: a request is judged from memory, over and over, and in between is found out what was lacking. When nothing is, it was
// judged by a policy that still counts, however long that took. Of each lease is kept in which generation its keys are all permitted:
// another generation is one more thing to find out. Rejected: to ask within a rule, so that the policy is as old as all the answers
// take; and to keep the keys, of which a lease may have any number, for as long as that.
//
// So rights are those of the last second, but keys are those that a lease had when upstream was asked, which for a transaction with
// many may be leasePatience ago. etcd looks at them when the request is applied. What is not noticed here is a key that somebody puts
// on the lease in between, who knows its number and may use all the keys that it has: with the lease that key goes too.
type leaseFindings struct {
	lacking []leaseQuestion
	list    bool // which leases there are is lacking

	ids    []int64 // of all leases, but no more than one too many
	listed bool
	mu     sync.Mutex // guards leases while something is found out
	leases map[int64]leaseFinding
}

// leaseQuestion asks whether all the keys of a lease are permitted.
type leaseQuestion struct {
	id     int64
	permit func(key []byte) error
}

// leaseFinding is the answer.
type leaseFinding struct {
	in        *generation
	forbidden []byte // a key that is not permitted then; nil if all are
}

const (
	// leasePatience is how long a request may take to be judged by leases. It does for maxPutLeases that take 150 ms each, if their
	// user asks for no others.
	leasePatience = 5 * time.Second
	// maxLeases bounds the leases that are looked at to list them. Where there are more, only those may list them who may read
	// every key.
	maxLeases = 100
	// maxLeaseCalls bounds the questions for the keys of a lease that are upstream at a time, because a lease may have any number
	// of keys, and maxLeaseCallsOfOne those for one user, who is so not in the way of others.
	maxLeaseCalls, maxLeaseCallsOfOne = 64, 16
	// maxLeaseBytes bounds the memory of the requests that wait for that.
	maxLeaseBytes = 64 << 20
)

// lack tells whether the request could not be judged.
func (f *leaseFindings) lack() bool { return f.list || len(f.lacking) > 0 }

// leaseKeys refuses who may not do to every key of a lease what permit permits. An administrator may, and anybody may if there
// is no such lease.
func (j *judgement) leaseKeys(id int64, permit func(key []byte) error) error {
	if id == 0 || j.isAdmin() {
		return nil
	}
	is, ok := j.found.leases[id]
	if ok && is.forbidden != nil {
		if err := permit(is.forbidden); err != nil {
			return err
		}
	}
	if !ok || is.in != j.generation || is.forbidden != nil {
		j.found.lacking = append(j.found.lacking, leaseQuestion{id, permit})
	}
	return nil
}

// leases are all that there are. It refuses the client if these are too many to look at.
func (j *judgement) leases() ([]int64, error) {
	f := &j.found
	if f.list = !f.listed; f.list {
		return nil, nil
	}
	if len(f.ids) > maxLeases {
		return nil, rpctypes.ErrGRPCPermissionDenied
	}
	return f.ids, nil
}

// findOut asks upstream for what is lacking, on behalf of a user who asks by a request of so many bytes. The error is one for a
// client.
func (j *judgement) findOut(ctx context.Context, user string, size int) (err error) {
	f := &j.found
	if f.list {
		err = j.guard.leaseSlots.Do(ctx, user, size, func() error { return j.list(ctx) })
	} else {
		err = j.guard.leaseSlots.Each(ctx, user, size, len(f.lacking), func(ctx context.Context, i int) error {
			return j.lookAt(ctx, f.lacking[i])
		})
	}
	if err != nil {
		return toUnavailable("ask for leases", err)
	}
	return nil
}

// lookAt finds out about the keys of a lease. It may be called concurrently.
func (j *judgement) lookAt(ctx context.Context, q leaseQuestion) error {
	keys, err := j.guard.keysOf(ctx, q.id)
	if err != nil {
		return err
	}
	is := leaseFinding{in: j.generation}
	for _, key := range keys {
		if q.permit(key) != nil {
			is.forbidden = key
			break
		}
	}
	f := &j.found
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leases == nil {
		f.leases = map[int64]leaseFinding{}
	}
	f.leases[q.id] = is
	return nil
}

// list finds out which leases there are.
func (j *judgement) list(ctx context.Context) error {
	raw, err := j.guard.callOwn(ctx, pb.Lease_LeaseLeases_FullMethodName, nil)
	if err != nil {
		return err
	}
	var resp pb.LeaseLeasesResponse
	if err := proto.Unmarshal(raw, &resp); err != nil {
		return err
	}
	f := &j.found
	f.listed = true
	for _, l := range resp.Leases[:min(len(resp.Leases), maxLeases+1)] {
		f.ids = append(f.ids, l.ID)
	}
	return nil
}

// keysOf asks upstream for the keys of a lease.
func (g *Guard) keysOf(ctx context.Context, id int64) ([][]byte, error) {
	req, err := proto.Marshal(&pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	if err != nil {
		return nil, err
	}
	asked := g.clock.now()
	raw, err := g.callOwn(ctx, pb.Lease_LeaseTimeToLive_FullMethodName, req)
	if says(err, rpctypes.ErrGRPCLeaseNotFound) {
		g.goneLeases.add(id, asked)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var resp pb.LeaseTimeToLiveResponse
	if err := proto.Unmarshal(raw, &resp); err != nil {
		return nil, err
	}
	if resp.TTL < 0 && resp.GrantedTTL == 0 {
		g.goneLeases.add(id, asked)
	}
	return resp.Keys, nil
}
