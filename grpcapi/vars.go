package grpcapi

import (
	"encoding/json"
	"net/http"
	"os"
	"runtime"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// vars answers GET /debug/vars with what etcd has there that is true here too. It is not package expvar, in which any
// package of the process can publish.
func (p probe) vars(w http.ResponseWriter, r *http.Request) {
	status, err := p.b.Status(r.Context(), &pb.StatusRequest{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	vars := struct {
		CommandLine   []string          `json:"cmdline"`
		FileLimit     uint64            `json:"file_descriptor_limit,omitempty"`
		Memory        *runtime.MemStats `json:"memstats"`
		RaftOfAMember raftVars          `json:"raft.status"`
	}{os.Args, fileLimit(), new(runtime.MemStats), newRaftVars(status)}
	runtime.ReadMemStats(vars.Memory)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(vars) // the client may be gone
}

// raftVars are what raft says of itself, ids in hexadecimal.
type raftVars struct {
	ID      string `json:"id"`
	Term    uint64 `json:"term"`
	Commit  uint64 `json:"commit"`
	Leader  string `json:"lead"`
	State   string `json:"raftState"`
	Applied uint64 `json:"applied"`
}

func newRaftVars(s *pb.StatusResponse) raftVars {
	id := s.GetHeader().GetMemberId()
	state := "StateFollower"
	if s.Leader == id {
		state = "StateLeader"
	}
	return raftVars{
		ID: strconv.FormatUint(id, 16), Term: s.RaftTerm, Commit: s.RaftIndex,
		Leader: strconv.FormatUint(s.Leader, 16), State: state, Applied: s.RaftAppliedIndex,
	}
}
