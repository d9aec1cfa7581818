package grpcapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/grpcapi/wire"
)

// checkTimeout bounds a health check: etcd's request timeout, 5 s and two election timeouts.
const checkTimeout = 7 * time.Second

// BackendHTTP answers etcd's HTTP endpoints about b: /health, /livez, /readyz, the checks below the last two, and
// /version (https://etcd.io/docs/v3.6/op-guide/monitoring/).
func BackendHTTP(b Backend) http.Handler {
	p := probe{b}
	live := []check{{"serializable_read", p.serializableRead}}
	ready := []check{
		{"data_corruption", p.notCorrupt},
		{"linearizable_read", p.linearizableRead},
		{"non_learner", p.notLearner},
		{"serializable_read", p.serializableRead},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", p.health)
	mux.HandleFunc("GET /version", p.version)
	handleChecks(mux, "/livez", live)
	handleChecks(mux, "/readyz", ready)
	return mux
}

// check is one named condition of health. run returns why it does not hold.
type check struct {
	name string
	run  func(context.Context) error
}

// handleChecks serves all checks at path, less those that the query excludes, and each one below path.
func handleChecks(mux *http.ServeMux, path string, checks []check) {
	serve := func(checks []check) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
			defer cancel()
			query := r.URL.Query()
			var report strings.Builder
			failed := false
			for _, c := range checks {
				if len(checks) > 1 && slices.Contains(query["exclude"], c.name) {
					continue
				}
				if err := c.run(ctx); err != nil {
					failed = true
					fmt.Fprintf(&report, "[-]%s failed: %v\n", c.name, err)
				} else {
					fmt.Fprintf(&report, "[+]%s ok\n", c.name)
				}
			}
			if failed {
				http.Error(w, report.String(), http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			if query.Has("verbose") {
				fmt.Fprint(w, report.String())
			}
			fmt.Fprintln(w, "ok")
		}
	}
	mux.HandleFunc("GET "+path, serve(checks))
	for _, c := range checks {
		mux.HandleFunc("GET "+path+"/"+c.name, serve([]check{c}))
	}
}

// probe asks a backend how it is.
type probe struct{ b Backend }

// health is etcd's older endpoint: alarms, a leader, a read; the first that is wrong is the reason.
func (p probe) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	query := r.URL.Query()
	reason := p.unhealthy(ctx, query["exclude"], query.Get("serializable") == "true")
	writeHealth(w, reason)
}

// writeHealth answers GET /health as etcd does: healthy without a reason, 503 with one.
func writeHealth(w http.ResponseWriter, reason string) {
	// Encoding two strings cannot fail.
	body, _ := json.Marshal(struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	if reason != "" {
		http.Error(w, string(body), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write(body)
}

func (p probe) unhealthy(ctx context.Context, excludedAlarms []string, serializable bool) (reason string) {
	alarms, err := p.b.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	if err != nil {
		return "ALARM ERROR:" + err.Error()
	}
	for _, a := range alarms.Alarms {
		if !slices.Contains(excludedAlarms, a.Alarm.String()) {
			return "ALARM " + a.Alarm.String()
		}
	}
	if !serializable {
		status, err := p.b.Status(ctx, &pb.StatusRequest{})
		if err != nil || status.Leader == 0 {
			return "RAFT NO LEADER"
		}
	}
	if err := p.read(ctx, serializable); err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}

func (p probe) read(ctx context.Context, serializable bool) error {
	_, err := p.b.Range(ctx, &wire.RangeRequest{Key: []byte{0}, Limit: 1, KeysOnly: true, Serializable: serializable})
	return err
}

func (p probe) serializableRead(ctx context.Context) error { return p.read(ctx, true) }

func (p probe) linearizableRead(ctx context.Context) error { return p.read(ctx, false) }

func (p probe) notCorrupt(ctx context.Context) error {
	alarms, err := p.b.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	if err != nil {
		return err
	}
	for _, a := range alarms.Alarms {
		if a.Alarm == pb.AlarmType_CORRUPT {
			return fmt.Errorf("alarm activated: %s", a.Alarm)
		}
	}
	return nil
}

func (p probe) notLearner(ctx context.Context) error {
	status, err := p.b.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return err
	}
	if status.IsLearner {
		return fmt.Errorf("not supported for learner")
	}
	return nil
}

func (p probe) version(w http.ResponseWriter, r *http.Request) {
	status, err := p.b.Status(r.Context(), &pb.StatusRequest{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	writeVersion(w, status)
}

// writeVersion answers GET /version as etcd does, from what a member says of itself.
func writeVersion(w http.ResponseWriter, s *pb.StatusResponse) {
	cluster := s.Version
	if i := strings.LastIndexByte(cluster, '.'); i > 0 {
		cluster = cluster[:i] + ".0" // a cluster has the version of its oldest member, to the minor
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(struct {
		Server  string `json:"etcdserver"`
		Cluster string `json:"etcdcluster"`
		Storage string `json:"storage,omitempty"`
	}{s.Version, cluster, s.StorageVersion})
}
