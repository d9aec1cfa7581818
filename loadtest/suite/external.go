package suite

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/proc"
)

// External is a system that runs already: an etcd, a weir, or whatever answers etcd's API.
//
// Scenarios leave nothing there: their keys begin with Prefix, below which nothing may be, and are deleted when each scenario has
// ended; leases are revoked. But the store's revision is another then, and its history longer: see Compact. Keys that could not be
// deleted are a failure in the report, which says how to delete them.
type External struct {
	Name      string
	Endpoints []string    // host:port each
	TLS       *tls.Config // nil for plaintext
	// User and Password are for etcd's authentication; none if User is "". The user needs to read and write below Prefix, and the role root for Compact. Tokens are
	// renewed between turns only: one that expires within a turn, as those do that are made as JWTs, fails it.
	User, Password string
	// PIDs are processes on this machine whose processor time and memory are measured; may be none.
	PIDs []int
	// Compact has the history compacted when the run has ended, and all endpoints defragmented, which others would notice.
	Compact bool
}

// answerPatience is how long a system may take for what it is asked for outside of what is measured.
const answerPatience = load.Patience

func (e External) host() host { return &externalHost{External: e} }

// externalHost has the same System for each scenario.
type externalHost struct {
	External
	began int64 // the store's revision before the run; 0 if it is not known
}

// system is the system, with a token if it wants one.
func (h *externalHost) system(ctx context.Context) (*System, error) {
	s := &System{Name: h.Name, Endpoints: h.Endpoints, Store: h.Endpoints, Client: client.Config{TLS: h.TLS}, servers: h}
	return s, h.renew(ctx, s)
}

// ask asks the i-th endpoint something. Its errors name the endpoint.
func (h *externalHost) ask(ctx context.Context, s *System, i int, what func(context.Context, *grpc.ClientConn) error) error {
	conn, err := s.DialStore(i)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	err = what(ctx, conn)
	if status.Code(err) == codes.Unavailable {
		err = h.hinted(ctx, h.Endpoints[i], err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", h.Endpoints[i], err)
	}
	return nil
}

// start asks each endpoint for a linearizable read, and sees to it that no keys of others are in the way, and that what the end of the
// run needs is allowed.
func (h *externalHost) start(ctx context.Context, _ Scenario) (*System, error) {
	s, err := h.system(ctx)
	if err != nil {
		return nil, err
	}
	if h.Compact {
		if err := h.ask(ctx, s, 0, mayCompact); err != nil {
			return nil, err
		}
	}
	for i := range h.Endpoints {
		if err := h.ask(ctx, s, i, func(ctx context.Context, conn *grpc.ClientConn) error {
			r, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(Prefix), RangeEnd: load.PrefixEnd(Prefix), CountOnly: true})
			if err == nil && r.Count > 0 {
				err = fmt.Errorf("there are %d keys below %s already, of somebody else or of a run that was killed: delete them first", r.Count, Prefix)
			}
			return err
		}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// mayCompact asks for what changes nothing and is root's alone, as compacting and defragmenting may be. Where authentication is off
// everybody is told.
func mayCompact(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := pb.NewAuthClient(conn).UserList(ctx, &pb.AuthUserListRequest{})
	if code := status.Code(err); code == codes.PermissionDenied || code == codes.InvalidArgument || code == codes.Unauthenticated {
		return fmt.Errorf("compacting and defragmenting at the end take a user with the role root: %w", err)
	}
	return nil
}

func (h *externalHost) processes() []process {
	var all []process
	for _, pid := range h.PIDs {
		all = append(all, process{
			name: "process-" + strconv.Itoa(pid), role: roleStore,
			cpu:    func() (time.Duration, error) { return proc.CPUOf(pid) },
			memory: func() (int64, error) { return proc.MemoryOf(pid) },
		})
	}
	return all
}

func (h *externalHost) requests(context.Context) (map[string]float64, error) { return nil, nil }

func (h *externalHost) alive() error { return nil }

// renew gets a new token: etcd forgets simple ones that nobody has used for five minutes.
func (h *externalHost) renew(ctx context.Context, s *System) error { return h.renewAt(ctx, s, 0) }

// renewAt gets it from the i-th endpoint.
func (h *externalHost) renewAt(ctx context.Context, s *System, i int) error {
	if h.User == "" {
		return nil
	}
	s.Client.Token = ""
	return h.ask(ctx, s, i, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: h.User, Password: h.Password})
		if err != nil {
			return fmt.Errorf("authenticate %s: %w", h.User, err)
		}
		s.Client.Token = r.Token
		return nil
	})
}

// clear deletes the keys, by whichever endpoint does it. Leases are revoked by the loads that were granted them, or expire.
func (h *externalHost) clear(ctx context.Context, s *System) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for i := range h.Endpoints {
		err := h.renewAt(ctx, s, i)
		if err == nil {
			err = h.ask(ctx, s, i, func(ctx context.Context, conn *grpc.ClientConn) error {
				_, err := pb.NewKVClient(conn).DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(Prefix), RangeEnd: load.PrefixEnd(Prefix)})
				return err
			})
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("there may be keys below %s that were not deleted, which `%s` does: %w", Prefix, h.deletion(), errors.Join(errs...))
}

// deletion is the command that deletes the keys, without what it takes for TLS.
func (h *externalHost) deletion() string {
	scheme, user := "", ""
	if h.TLS != nil {
		scheme = "https://"
	}
	if h.User != "" {
		user = " --user=" + h.User // it asks for the password
	}
	return "etcdctl --endpoints=" + scheme + strings.Join(h.Endpoints, ","+scheme) + user + " del --prefix " + Prefix
}

// token is a client's identity, as etcd gave it to the client; "" for none.
type token string

// GetRequestMetadata is what identifies each request.
func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if t == "" {
		return nil, nil
	}
	return map[string]string{"token": string(t)}, nil
}

// RequireTransportSecurity says that a token is sent in plaintext too, as etcd's client does.
func (token) RequireTransportSecurity() bool { return false }
