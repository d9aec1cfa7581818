package proxy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// roll is what the members say of themselves, for people. They are asked only while somebody looks, once in rollLife. The zero
// value has asked nobody.
type roll struct {
	mu    sync.Mutex // held while members are asked
	at    time.Time
	known map[*member]*pb.StatusResponse // of those that have told
}

const rollLife = 2 * time.Second

// MemberStatus is what is known of an upstream member.
type MemberStatus struct {
	Endpoint  string `json:"endpoint"`
	Connected bool   `json:"connected"`
	InUse     bool   `json:"in_use"` // requests go there
	// Leads tells whether it is the cluster's leader; null if it does not say so, to whom the proxy is.
	Leads   *bool  `json:"leads"`
	ID      string `json:"id,omitempty"`
	Version string `json:"version,omitempty"`
	Learner bool   `json:"learner,omitempty"`
	DBSize  int64  `json:"db_size,omitempty"`
	Term    uint64 `json:"raft_term,omitempty"`
	// Error is why it is not connected.
	Error string `json:"error,omitempty"`
	// Of short calls, pings not among them: how many were answered, how many not, and how long those of the last minute took.
	Answered uint64  `json:"answered"`
	Failed   uint64  `json:"failed"`
	Median   float64 `json:"median_seconds"`
	P99      float64 `json:"p99_seconds"`
}

// memberStatus is what is known of all members, in the order of their names: the proxy's own is by chance. It asks them, if nobody has just now, and so may take answerPatience.
func (p *Proxy) memberStatus(ctx context.Context) []MemberStatus {
	u := p.upstream
	u.mu.Lock()
	members := u.members
	u.mu.Unlock()
	said := p.roll.call(ctx, p)
	all := make([]MemberStatus, len(members))
	var current *member
	if t := u.current.Load(); t != nil {
		current = t.member
	}
	var asked sync.WaitGroup
	for i, m := range members {
		s := &all[i]
		s.Endpoint, s.InUse = m.endpoint, m == current
		s.Answered, s.Failed = m.calls.timings.counts()
		median, p99 := m.calls.timings.quantiles(time.Now())
		s.Median, s.P99 = median.Seconds(), p99.Seconds()
		asked.Go(func() { s.tellConnected(ctx, m) })
		if r := said[m]; r != nil {
			leads := r.Leader != 0 && r.Leader == r.Header.GetMemberId()
			s.Leads, s.Version, s.Learner, s.DBSize, s.Term = &leads, r.Version, r.IsLearner, r.DbSize, r.RaftTerm
			s.ID = fmt.Sprintf("%x", r.Header.GetMemberId())
		}
	}
	asked.Wait()
	onlyOneLeads(all)
	slices.SortStableFunc(all, func(a, b MemberStatus) int { return cmp.Compare(a.Endpoint, b.Endpoint) })
	return all
}

// tellConnected may take a moment if it is not.
func (s *MemberStatus) tellConnected(ctx context.Context, m *member) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	if err := m.cause(ctx); err != nil {
		s.Error = err.Error()
		return
	}
	s.Connected = true
}

// onlyOneLeads takes a member that is cut off, and does not know that there is another leader, for none.
func onlyOneLeads(all []MemberStatus) {
	var newest uint64
	for _, s := range all {
		if s.Leads != nil && *s.Leads {
			newest = max(newest, s.Term)
		}
	}
	for i := range all {
		if s := &all[i]; s.Leads != nil && s.Term < newest {
			*s.Leads = false
		}
	}
}

// call asks all connected members, unless that has been done just now. Who comes meanwhile waits for the answers.
func (r *roll) call(ctx context.Context, p *Proxy) map[*member]*pb.StatusResponse {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < rollLife {
		return r.known
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerPatience)
	defer cancel()
	own, err := p.guard.Own(ctx)
	if err != nil {
		own = ctx // members may tell everybody
	}
	members := p.upstream.connected()
	answers := make([]*pb.StatusResponse, len(members))
	var asked sync.WaitGroup
	for i, m := range members {
		asked.Go(func() {
			raw, err := m.call(own, pb.Maintenance_Status_FullMethodName, nil)
			var answer pb.StatusResponse
			if err == nil && proto.Unmarshal(raw, &answer) == nil {
				answers[i] = &answer
			}
		})
	}
	asked.Wait()
	r.known = map[*member]*pb.StatusResponse{}
	for i, m := range members {
		if answers[i] != nil {
			r.known[m] = answers[i]
		}
	}
	r.at = time.Now()
	return r.known
}
