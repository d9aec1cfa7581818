package grpcapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// healthEndpoints answer /health, /livez and /readyz as etcd does (https://etcd.io/docs/v3.6/op-guide/monitoring/).
type healthEndpoints struct {
	metrics *Metrics        // may be nil
	ready   context.Context // ends when the server is not ready any more, with the reason
	log     *slog.Logger
}

// check is one named condition of health. run returns why it does not hold, and sees to it itself that this does not take for ever:
// with one deadline for all checks, one that takes long would have those after it fail.
type check struct {
	name string
	run  func(context.Context) error
}

// add serves all checks at /kind, less those that the query excludes, and each one below it.
func (h healthEndpoints) add(e endpoints, kind string, checks []check) {
	path := "/" + kind
	e[path] = onlyGet(func(w http.ResponseWriter, r *http.Request) {
		excluded := r.URL.Query()["exclude"]
		h.answer(w, r, kind, slices.DeleteFunc(slices.Clone(checks), func(c check) bool { return slices.Contains(excluded, c.name) }))
	})
	for _, c := range checks {
		e[path+"/"+c.name] = onlyGet(func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, kind, []check{c}) })
	}
}

func (h healthEndpoints) answer(w http.ResponseWriter, r *http.Request, kind string, checks []check) {
	var report strings.Builder
	failed := false
	if kind == "readyz" && h.ready.Err() != nil {
		checks = append([]check{{"serving", func(context.Context) error { return context.Cause(h.ready) }}}, checks...)
	}
	for _, c := range checks {
		err := c.run(r.Context())
		h.metrics.checkedHealth(kind, c.name, err)
		if err != nil {
			failed = true
			fmt.Fprintf(&report, "[-]%s failed: %s\n", c.name, reason(err))
		} else {
			fmt.Fprintf(&report, "[+]%s ok\n", c.name)
		}
	}
	if failed {
		level := slog.LevelError
		if kind == "readyz" && h.ready.Err() != nil {
			level = slog.LevelDebug // that it is not ready any more has been logged
		}
		h.log.Log(r.Context(), level, "Health check error", "path", r.URL.Path, "reason", report.String())
		http.Error(w, report.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") {
		fmt.Fprint(w, report.String())
	}
	fmt.Fprintln(w, "ok")
}

// reason is what etcd, which asks itself without gRPC, says of an error.
func reason(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// older answers /health, by which why returns the first thing that is wrong.
func (h healthEndpoints) older(why func(ctx context.Context, excludedAlarms []string, serializable bool) string) http.Handler {
	return onlyGet(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		var wrong string
		if h.ready.Err() != nil {
			wrong = context.Cause(h.ready).Error()
		} else {
			wrong = why(r.Context(), query["exclude"], query.Get("serializable") == "true")
		}
		h.metrics.answeredHealth(wrong == "")
		// Encoding two strings cannot fail.
		body, _ := json.Marshal(struct {
			Health string `json:"health"`
			Reason string `json:"reason"`
		}{fmt.Sprint(wrong == ""), wrong})
		if wrong != "" {
			level := slog.LevelWarn
			if h.ready.Err() != nil {
				level = slog.LevelDebug
			}
			h.log.Log(r.Context(), level, "/health error", "output", string(body), "path", r.URL.Path)
			http.Error(w, string(body), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(body)
	})
}

// backendEndpoints are those of a server that holds the data.
func (s *Server) backendEndpoints(b Backend) endpoints {
	p := probe{b}
	h := healthEndpoints{metrics: s.cfg.Metrics, ready: s.ready, log: s.cfg.Logger}
	e := endpoints{
		"/health":     h.older(p.unhealthy),
		"/version":    onlyGet(p.version),
		"/debug/vars": onlyGet(p.vars),
	}
	h.add(e, "livez", []check{{"serializable_read", p.serializableRead}})
	h.add(e, "readyz", []check{
		{"data_corruption", p.notCorrupt},
		{"linearizable_read", p.linearizableRead},
		{"non_learner", p.notLearner},
		{"serializable_read", p.serializableRead},
	})
	if s.cfg.Gatherer != nil {
		e["/metrics"] = metrics(s.cfg.Gatherer)
	}
	return e
}

// probe asks a backend how it is. As at etcd only a linearizable read asks other members, and the backend ends it, with its reason,
// when its request timeout has passed: a member without a quorum says the rest at once.
type probe struct{ b Backend }

func (p probe) unhealthy(ctx context.Context, excludedAlarms []string, serializable bool) string {
	for _, a := range p.b.Alarms() {
		if slices.Contains(excludedAlarms, a.Alarm.String()) {
			continue
		}
		if a.Alarm != pb.AlarmType_NOSPACE && a.Alarm != pb.AlarmType_CORRUPT {
			return "ALARM UNKNOWN"
		}
		return "ALARM " + a.Alarm.String()
	}
	if !serializable {
		status, err := p.b.Status(ctx, &pb.StatusRequest{})
		if err != nil || status.Leader == 0 {
			return "RAFT NO LEADER"
		}
	}
	if err := p.read(ctx, serializable); err != nil {
		return "RANGE ERROR:" + reason(err)
	}
	return ""
}

// read reads a key. Who is refused it for want of a user has been answered, and only then: a linearizable read is permitted when it
// could be carried out.
func (p probe) read(ctx context.Context, serializable bool) error {
	_, err := p.b.Range(ctx, &wire.RangeRequest{Key: []byte{0}, Limit: 1, KeysOnly: true, Serializable: serializable})
	if refused(err) {
		return nil
	}
	return toStatus(err)
}

// refused tells whether an error says that the one who asks may not, or does not say who they are.
func refused(err error) bool {
	switch status.Code(toStatus(err)) {
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated:
		return true
	}
	return false
}

func (p probe) serializableRead(ctx context.Context) error { return p.read(ctx, true) }

func (p probe) linearizableRead(ctx context.Context) error { return p.read(ctx, false) }

func (p probe) notCorrupt(context.Context) error {
	for _, a := range p.b.Alarms() {
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
		return errors.New("not supported for learner")
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
	cluster := s.StorageVersion // which follows that of the cluster; etcd has it since 3.6
	if cluster == "" {
		cluster = s.Version
		if i := strings.LastIndexByte(cluster, '.'); i > 0 {
			cluster = cluster[:i] + ".0" // a cluster has the version of its oldest member, to the minor
		}
	}
	// Encoding strings cannot fail.
	body, _ := json.Marshal(struct {
		Server  string `json:"etcdserver"`
		Cluster string `json:"etcdcluster"`
		Storage string `json:"storage,omitempty"`
	}{s.Version, cluster, s.StorageVersion})
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
