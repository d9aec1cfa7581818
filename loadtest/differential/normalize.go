package differential

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// headerOf is the outermost header of a response; nil if it has none.
func headerOf(m proto.Message) *pb.ResponseHeader {
	f := m.ProtoReflect().Descriptor().Fields().ByName("header")
	if f == nil || !m.ProtoReflect().Has(f) {
		return nil
	}
	h, _ := m.ProtoReflect().Get(f).Message().Interface().(*pb.ResponseHeader)
	return h
}

// normalize takes out of a response what two servers may give differently. Ids that a server made up become small numbers.
func (s *side) normalize(m proto.Message) {
	// Only the outermost header names servers; that those in the responses of a txn do not is compared.
	if h := headerOf(m); h != nil {
		h.ClusterId, h.MemberId, h.RaftTerm = isSet(h.ClusterId), isSet(h.MemberId), isSet(h.RaftTerm)
	}
	switch m := m.(type) {
	case *pb.LeaseTimeToLiveResponse:
		// A second may pass between the two answers.
		if m.TTL > 0 && m.TTL <= m.GrantedTTL && m.TTL > m.GrantedTTL-60 {
			m.TTL = m.GrantedTTL
		}
		slices.SortFunc(m.Keys, bytes.Compare) // etcd gives them in the order of a Go map
	case *pb.LeaseLeasesResponse:
		// In the order of expiry: that of leases granted at about the same time.
		slices.SortFunc(m.Leases, func(a, b *pb.LeaseStatus) int { return cmp.Compare(a.ID, b.ID) })
	case *pb.MemberListResponse:
		if s.several() {
			m.Members = slices.DeleteFunc(m.Members, func(m *pb.Member) bool { return m.ID != s.self })
			for _, member := range m.Members { // which of them the endpoint is differs from run to run
				member.Name = "m1"
			}
		}
		s.normalizeMembers(m.Members)
	case *pb.MemberAddResponse:
		s.normalizeMembers(m.Members)
		s.normalizeMembers([]*pb.Member{m.Member})
	case *pb.MemberRemoveResponse:
		s.normalizeMembers(m.Members)
	case *pb.MemberUpdateResponse:
		s.normalizeMembers(m.Members)
	case *pb.MemberPromoteResponse:
		s.normalizeMembers(m.Members)
	case *pb.StatusResponse:
		if s.several() && m.Leader != 0 {
			m.Leader = s.self
		}
		m.Leader = s.normalID(m.Leader)
		m.RaftTerm, m.RaftIndex, m.RaftAppliedIndex = isSet(m.RaftTerm), isSet(m.RaftIndex), isSet(m.RaftAppliedIndex)
		m.DbSize, m.DbSizeInUse = 1, 1
		m.StorageVersion = "" // etcd corrects it some seconds after its start
		for i := range m.Errors {
			m.Errors[i] = s.normalAlarmText(m.Errors[i])
		}
	case *pb.AlarmResponse:
		for _, alarm := range m.Alarms {
			alarm.MemberID = s.normalID(alarm.MemberID)
		}
	case *pb.HashResponse:
		m.Hash = 0 // of the whole file, ids and indexes included
	case *pb.AuthenticateResponse:
		if m.Token != "" {
			m.Token = "a token"
		}
	}
}

func (s *side) normalizeMembers(members []*pb.Member) {
	sorted := slices.IsSortedFunc(members, byID)
	for _, member := range members {
		member.ID = s.normalID(member.ID)
		member.PeerURLs, member.ClientURLs = blank(member.PeerURLs), blank(member.ClientURLs)
	}
	if sorted {
		slices.SortFunc(members, byID)
	}
}

func byID(a, b *pb.Member) int { return cmp.Compare(a.ID, b.ID) }

// The names of members in what is compared.
const (
	selfID    = 1
	learnerID = 2
)

// learn takes the ids that the server has made up from an answer.
func (s *side) learn(m proto.Message) {
	if m == nil {
		return
	}
	if h := headerOf(m); h != nil && h.MemberId != 0 {
		s.self = h.MemberId
	}
	if added, ok := m.(*pb.MemberAddResponse); ok {
		s.learner = added.Member.GetID()
	}
}

func (s *side) normalID(id uint64) uint64 {
	switch {
	case id == s.self && id != 0:
		return selfID
	case id == s.learner && id != 0:
		return learnerID
	default:
		return id
	}
}

// ownID is the reverse of normalID.
func (s *side) ownID(id uint64) uint64 {
	switch id {
	case selfID:
		return s.self
	case learnerID:
		return s.learner
	default:
		return id
	}
}

// normalAlarmText takes the space out of an alarm that Status reports as text, of which protobuf at random makes two, and
// the id.
func (s *side) normalAlarmText(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if _, alarm, ok := strings.Cut(text, " alarm:"); ok && strings.HasPrefix(text, "memberID:") {
		return "memberID:ID alarm:" + alarm
	}
	return text
}

func isSet(id uint64) uint64 { return min(id, 1) }

// blank takes the ports out of URLs, of servers on this machine.
func blank(urls []string) []string {
	for i, u := range urls {
		if before, _, ok := strings.Cut(u, "127.0.0.1:"); ok {
			urls[i] = before
		}
	}
	return urls
}
