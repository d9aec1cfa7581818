package grpcapi

import "net/http"

// PeerHTTP answers what a member's peer port is asked by people, scripts and new members: /version, and /members by the handler that
// is given. Both tell everybody, whether authentication is on or not, as at etcd: who can reach the port is no client. By its other
// paths members of etcd talk to each other; they are refused, because weir's members do not speak to etcd's.
func PeerHTTP(b Backend, members http.Handler) http.Handler {
	p := probe{b}
	mux := http.NewServeMux()
	mux.Handle("/version", onlyGet(p.version))
	mux.Handle("/members", onlyGet(members.ServeHTTP))
	for _, path := range []string{"/raft", "/raft/", "/leases", "/leases/", "/members/promote/", "/members/hashkv", "/downgrade/enabled"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "this is a member of a weir cluster, which does not speak to members of etcd", http.StatusNotImplemented)
		})
	}
	return mux
}
