package proxy

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/statuspage"
)

// Detail is Status and what takes longer to find out: what people look at.
type Detail struct {
	Status
	Members       []MemberStatus `json:"members"`
	Watches       WatchStatus    `json:"watches"`
	Feeds         []FeedStatus   `json:"feeds"` // those with the most watches, at most shownFeeds
	BusiestRanges []Busiest      `json:"busiest_ranges"`
	// BusiestClients are users, common names or addresses, or tenants.
	BusiestClients []Busiest `json:"busiest_clients"`
}

// WatchStatus is all watches.
type WatchStatus struct {
	statuspage.Clients
	// Own are the proxy's: they keep what is in memory up to date.
	Own int `json:"own"`
	// Upstream are the watches that all of them share, and Ratio how many of clients share one; 0 if there is none.
	Upstream     int     `json:"upstream"`
	Ratio        float64 `json:"ratio"`
	HistoryBytes int     `json:"history_bytes"`
	// Delivered are events sent to watches; Received how many of those were not another's too.
	Delivered uint64 `json:"events_delivered"`
	Received  uint64 `json:"events_received"`
}

// FeedStatus is one watch upstream.
type FeedStatus struct {
	Range    string `json:"range"` // see statuspage.Range
	Fixed    bool   `json:"fixed"`
	Open     bool   `json:"open"`
	Revision int64  `json:"revision"` // up to which it has everything
	Behind   int64  `json:"behind"`   // how far the newest revision that is known is beyond that; a range where nothing happens may stay there
	Watches  int    `json:"watches"`
	Ranges   int    `json:"ranges"` // different ones
	Events   uint64 `json:"events"`
	Unwanted uint64 `json:"events_unwanted"`
	Bytes    int    `json:"history_bytes"`
}

// Busiest is a range or a client, and how many requests a second there are of it, about.
type Busiest struct {
	Name      string  `json:"name"`
	PerSecond float64 `json:"per_second"`
}

const (
	shownFeeds   = 100
	shownBusiest = 10
)

// Detail is as of now, with the clients that are connected. Upstream's members are asked how they are, and waited for, a quarter
// of a second at most each time.
func (p *Proxy) Detail(ctx context.Context, clients statuspage.Clients) Detail {
	d := Detail{
		Status: p.Status(), Members: p.memberStatus(ctx), Watches: p.watchStatus(clients), Feeds: []FeedStatus{},
		BusiestRanges: []Busiest{}, BusiestClients: []Busiest{},
	}
	feeds, _ := p.feeds.List(shownFeeds)
	for _, f := range feeds {
		d.Feeds = append(d.Feeds, FeedStatus{
			Range: statuspage.Range(f.Span.Key, f.Span.End), Fixed: f.Fixed, Open: f.Open, Revision: f.Revision,
			Behind: max(0, d.Upstream.Revision-f.Revision), Watches: f.Watchers, Ranges: f.Ranges,
			Events: f.Events, Unwanted: f.Unwanted, Bytes: f.RingBytes,
		})
	}
	for _, e := range p.busy.ranges.Top(shownBusiest) {
		d.BusiestRanges = append(d.BusiestRanges, Busiest(e))
	}
	for _, e := range p.busy.clients.Top(shownBusiest) {
		d.BusiestClients = append(d.BusiestClients, Busiest(e))
	}
	return d
}

func (p *Proxy) watchStatus(clients statuspage.Clients) WatchStatus {
	s := p.feeds.Hub().Stats()
	w := WatchStatus{
		Clients: clients, Own: max(0, s.Watchers-clients.Watches), // counted a moment later
		Upstream: s.Feeds, HistoryBytes: s.RingBytes, Delivered: s.Delivered, Received: s.Delivered - s.Shared,
	}
	if s.Feeds > 0 {
		w.Ratio = float64(clients.Watches) / float64(s.Feeds)
	}
	return w
}

// Who names the client of an RPC to people.
func (p *Proxy) Who(ctx context.Context) string { return p.tenants.Known(ctx).String() }

// anyRevision is one that no cluster has reached.
const anyRevision = 1 << 62

// PermitStatus refuses who may not see what all clients do: while authentication is on, who does not have the role root, and who has
// a part of the keys of his own. Upstream is asked for a hash of the keys at a revision that does not exist: that takes the role
// root, and a member answers it from what it has at hand. (A read of users and roles goes through etcd's log.)
func (p *Proxy) PermitStatus(ctx context.Context) error {
	if err := p.tenants.PermitAll(ctx); err != nil {
		return err
	}
	req, err := proto.Marshal(&pb.HashKVRequest{Revision: anyRevision})
	if err != nil {
		return err
	}
	_, err = p.ask(ctx, pb.Maintenance_HashKV_FullMethodName, req)
	if status.Convert(err).Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCFutureRev) {
		return nil
	}
	return err
}

// Login is Authenticate, within the limits that there are on it.
func (p *Proxy) Login(ctx context.Context, name, password string) (token string, err error) {
	req, err := proto.Marshal(&pb.AuthenticateRequest{Name: name, Password: password})
	if err != nil {
		return "", err
	}
	visit, err := p.tenants.Enter(ctx, pb.Auth_Authenticate_FullMethodName, req)
	if err != nil {
		return "", err
	}
	raw, err := p.Unary(ctx, pb.Auth_Authenticate_FullMethodName, req, nil)
	visit.Leave(raw, err)
	if err != nil {
		return "", err
	}
	var r pb.AuthenticateResponse
	if err := proto.Unmarshal(raw, &r); err != nil {
		return "", err
	}
	return r.Token, nil
}
