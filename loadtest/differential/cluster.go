package differential

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// unknownID is that of no member.
const unknownID = 12345

// aMember is the id of a member, under the name that both sides have for it.
func (r *runner) aMember() uint64 { return pick[uint64](r, selfID, learnerID, unknownID, 0) }

// peerURLs are what members are updated to. No two have the same: etcd refuses an update to another's URLs, but replays it
// when it starts, so that the member list is then another one.
func (r *runner) peerURLs(id uint64) []string {
	if id == selfID {
		return pick(r, []string{"http://localhost:1"}, []string{"http://localhost:1", "http://localhost:2"})
	}
	return pick(r, []string{"http://10.255.255.1:1"}, []string{"http://10.255.255.1:2"})
}

// badURLs are for new members only: etcd takes them in an update, of which it panics, and again at each start.
var badURLs = [][]string{{}, {""}, {"nonsense"}, {"http://localhost"}, {"http://localhost:1/path"}, {"ftp://localhost:1"}}

// stepCluster sends a request that is about members. A second one that votes is never added: it would be missing for a
// quorum. Of several members none is changed: that would be another thing than to change the only one.
func (r *runner) stepCluster(ctx context.Context) error {
	id, n := r.aMember(), r.rng.IntN(8)
	if r.sides[1].several() {
		n = 7
	}
	var req func(s *side) proto.Message
	switch n {
	case 0, 1:
		// The id is made of the URLs and the second of the day; the same one twice would be refused for that, or not.
		add := &pb.MemberAddRequest{PeerURLs: []string{fmt.Sprintf("http://10.255.255.2:%d", r.number)}, IsLearner: true}
		if r.chance(3) {
			add.PeerURLs, add.IsLearner = pick(r, badURLs...), r.chance(2)
		}
		req = func(*side) proto.Message { return add }
	case 2:
		req = func(s *side) proto.Message { return &pb.MemberRemoveRequest{ID: s.ownID(id)} }
	case 3:
		urls := r.peerURLs(id)
		req = func(s *side) proto.Message { return &pb.MemberUpdateRequest{ID: s.ownID(id), PeerURLs: urls} }
	case 4:
		req = func(s *side) proto.Message { return &pb.MemberPromoteRequest{ID: s.ownID(id)} }
	case 5:
		req = func(s *side) proto.Message { return &pb.MoveLeaderRequest{TargetID: s.ownID(id)} }
	default:
		linearizable := r.chance(2)
		req = func(*side) proto.Message { return &pb.MemberListRequest{Linearizable: linearizable} }
	}
	_, err := r.askOwn(ctx, req)
	return err
}

// stepMaintenance asks what needs no preparation.
func (r *runner) stepMaintenance(ctx context.Context) error {
	switch r.rng.IntN(12) {
	case 0:
		return r.both(ctx, &pb.DefragmentRequest{})
	case 1, 2, 3:
		return r.both(ctx, &pb.StatusRequest{})
	case 4, 5, 6:
		id, kind := r.aMember(), pb.AlarmType(r.rng.IntN(4))
		action := pick(r, pb.AlarmRequest_GET, pb.AlarmRequest_DEACTIVATE)
		_, err := r.askOwn(ctx, func(s *side) proto.Message {
			return &pb.AlarmRequest{Action: action, MemberID: s.ownID(id), Alarm: kind}
		})
		return err
	case 7, 8:
		return r.stepDowngrade(ctx)
	default:
		return r.both(ctx, &pb.HashRequest{})
	}
}

// stepDowngrade asks whether a downgrade is possible, or begins one and at once ends it: etcd's servers act on it from time
// to time.
func (r *runner) stepDowngrade(ctx context.Context) error {
	action := pick(r, pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE, pb.DowngradeRequest_CANCEL, 3)
	version := pick(r, "3.6", "3.6.0", "3.6.99", "3.5.0", "3.7.0", "3.8.0", "4.0.0", "nonsense", "", "v3.6.0", "3")
	answers, err := r.ask(ctx, &pb.DowngradeRequest{Action: action, Version: version})
	if err != nil || answers[0].err != nil || action != pb.DowngradeRequest_ENABLE {
		return err
	}
	if err := r.both(ctx, &pb.StatusRequest{}); err != nil {
		return err
	}
	return r.both(ctx, &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL})
}

// stepAlarm sends some requests while there is an alarm, which refuses part of them.
func (r *runner) stepAlarm(ctx context.Context) error {
	if err := r.endWaiters(ctx); err != nil {
		return err
	}
	id, kind := r.aMember(), pb.AlarmType(r.rng.IntN(3))
	alarm := func(action pb.AlarmRequest_AlarmAction) error {
		defer r.asRoot()()
		for _, a := range []pb.AlarmRequest_AlarmAction{action, pb.AlarmRequest_GET} {
			_, err := r.askOwn(ctx, func(s *side) proto.Message {
				return &pb.AlarmRequest{Action: a, MemberID: s.ownID(id), Alarm: kind}
			})
			if err != nil {
				return err
			}
		}
		return r.both(ctx, &pb.StatusRequest{})
	}
	if err := alarm(pb.AlarmRequest_ACTIVATE); err != nil {
		return err
	}
	r.corrupt = kind == pb.AlarmType_CORRUPT
	defer func() { r.corrupt = false }()
	for range 20 {
		r.who = r.anyone()
		if err := r.oneOf(r.plainKinds()).run(ctx); err != nil {
			return err
		}
	}
	return alarm(pb.AlarmRequest_DEACTIVATE)
}
