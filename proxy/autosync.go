package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
	"weir/proxy/access"
)

// syncTimeout bounds one question for the members; it is client/v3's.
const syncTimeout = 5 * time.Second

// syncEndpoints has the endpoints be the client URLs of the cluster's members, asked for each interval, as client/v3 does
// with AutoSyncInterval. A tenth of it is added at random, so that many proxies do not ask at the same time. What goes
// wrong leaves the endpoints as they are.
func (u *upstream) syncEndpoints(interval time.Duration, guard *access.Guard) {
	reported := ""
	for pause(u.ctx, interval+rand.N(interval/10+1)) {
		found, err := u.membersURLs(guard)
		if err == nil && len(found) > 0 {
			err = u.setEndpoints(found)
		}
		switch {
		case u.ctx.Err() != nil:
		case err == nil:
			reported = ""
		case err.Error() != reported:
			reported = err.Error()
			u.log.Warn("endpoints are not synchronised with the cluster's members", "error", err)
		}
	}
}

// membersURLs asks the current member for the client URLs of those that vote and have been started.
//
// It returns none if they all lead to the member that was asked. So they do if that is a proxy, which names itself to its
// clients and not the other proxies beside it; or the cluster has only one member, and then the endpoints of the others lead
// nowhere. Neither is a reason to give up the others.
func (u *upstream) membersURLs(guard *access.Guard) ([]endpoint, error) {
	ctx, cancel := context.WithTimeout(u.ctx, syncTimeout)
	defer cancel()
	req, err := proto.Marshal(&pb.MemberListRequest{Linearizable: true}) // one that is behind may know old members only
	if err != nil {
		return nil, fmt.Errorf("encode request for the members: %w", err)
	}
	t, err := u.pick(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := access.AsOwn(ctx, guard, func(ctx context.Context) (wire.Raw, error) {
		return t.member.call(ctx, pb.Cluster_MemberList_FullMethodName, req)
	})
	if err != nil {
		return nil, fmt.Errorf("ask for the members: %w", err)
	}
	var list pb.MemberListResponse
	if err := proto.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("decode the members: %w", err)
	}
	var found []endpoint
	elsewhere := false
	for _, m := range list.Members {
		if m.IsLearner || m.Name == "" { // a learner refuses most RPCs; without a name it has never been started
			continue
		}
		for _, url := range m.ClientURLs {
			e, err := u.cfg.endpoint(url)
			if err != nil {
				return nil, fmt.Errorf("client URL of member %s: %w", m.Name, err)
			}
			found = append(found, e)
			elsewhere = elsewhere || e.target != t.member.target
		}
	}
	switch {
	case len(found) == 0:
		return nil, errNoURLs
	case !elsewhere:
		return nil, nil
	}
	return found, nil
}

var errNoURLs = errors.New("no member of the cluster has a client URL")
