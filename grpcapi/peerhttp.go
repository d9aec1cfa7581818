package grpcapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// PeerHTTP answers what a member's peer port is asked by people and scripts: /version and /members. By its other paths
// members of etcd talk to each other; they are refused, because weir's members do not speak to etcd's.
func PeerHTTP(b Backend) http.Handler {
	p := probe{b}
	mux := http.NewServeMux()
	mux.Handle("/version", onlyGet(p.version))
	mux.Handle("/members", onlyGet(p.members))
	for _, path := range []string{"/raft", "/raft/", "/leases", "/leases/", "/members/promote/", "/members/hashkv", "/downgrade/enabled"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "this is a member of a weir cluster, which does not speak to members of etcd", http.StatusNotImplemented)
		})
	}
	return mux
}

// members answers the members as this one knows them, in the form in which etcd's stores keep them.
func (p probe) members(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	list, err := p.b.MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		code := http.StatusServiceUnavailable
		if refused(err) { // with authentication on; etcd tells everybody
			code = http.StatusUnauthorized
		}
		http.Error(w, reason(err), code)
		return
	}
	type member struct {
		ID         uint64   `json:"id"`
		PeerURLs   []string `json:"peerURLs"`
		IsLearner  bool     `json:"isLearner,omitempty"`
		Name       string   `json:"name,omitempty"`
		ClientURLs []string `json:"clientURLs,omitempty"`
	}
	members := []member{}
	for _, m := range list.Members {
		members = append(members, member{m.ID, m.PeerURLs, m.IsLearner, m.Name, m.ClientURLs})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Etcd-Cluster-ID", strconv.FormatUint(list.Header.GetClusterId(), 16))
	_ = json.NewEncoder(w).Encode(members) // the client may be gone
}
