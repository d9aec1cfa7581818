package suite

import (
	"context"
	"crypto/tls"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/report"
)

// describe names who answers at each endpoint, and how clients go there.
func (h *externalHost) describe(ctx context.Context) report.System {
	s := report.System{Name: h.Name, External: true, Caveat: "It ran already: how it is configured, what else it does, and what its " +
		"machines are like, is not known here."}
	system, err := h.system(ctx)
	if err == nil {
		h.began, _ = h.revision(ctx, system) // a target that does not answer is named below
	}
	for i, addr := range h.Endpoints {
		said := err
		if err == nil {
			said = h.ask(ctx, system, i, func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
				if err == nil {
					s.Programs = append(s.Programs, fmt.Sprintf("%s at %s", h.program(ctx, addr, r.Version), addr))
				}
				return err
			})
		}
		if said != nil {
			s.Programs = append(s.Programs, fmt.Sprintf("unknown at %s: %v", addr, said))
		}
	}
	for _, pid := range h.PIDs {
		s.Programs = append(s.Programs, fmt.Sprintf("process %d: %s", pid, builtFrom(pid)))
	}
	how := "clients use plaintext"
	if h.TLS != nil {
		how = "clients use TLS"
	}
	if h.User != "" {
		how += ", as user " + h.User
	}
	s.Programs = append(s.Programs, how)
	return s
}

// program is who answers at an address, by the metrics that only one program has, and the version that it told over etcd's API. That
// is of the API: weir's own is in its metrics, since it has weir_build_info.
func (h *externalHost) program(ctx context.Context, addr, version string) string {
	// A proxy's own come first, as below /metrics it has those of what is behind it.
	own, _ := h.get(ctx, addr, "/proxy/metrics")
	metrics, _ := h.get(ctx, addr, "/metrics")
	switch {
	case strings.Contains(own, "\nweir_"):
		return "weir proxy" + weirVersion(own) + ", which speaks as etcd " + version + ","
	case strings.Contains(own, "\netcd_grpc_proxy_"):
		return "etcd grpc-proxy, before an etcd " + version + ","
	case strings.Contains(metrics, "\nweir_level "):
		return "weir core" + weirVersion(metrics) + ", which speaks as etcd " + version + ","
	case strings.Contains(metrics, "\netcd_server_version{"):
		return "etcd " + version
	}
	return "what speaks as etcd " + version + ", and has no metrics there by which it would be known,"
}

// weirVersion is a space and the version in weir's metrics; "" if they do not tell it.
func weirVersion(metrics string) string {
	_, info, _ := strings.Cut(metrics, "\nweir_build_info{")
	labels, _, _ := strings.Cut(info, "}")
	_, version, found := strings.Cut(labels, `version="`)
	if version, _, _ = strings.Cut(version, `"`); !found || version == "" {
		return ""
	}
	return " " + version
}

// get is what an endpoint has over HTTP.
func (h *externalHost) get(ctx context.Context, addr, path string) (string, error) {
	const most = 16 << 20
	transport, scheme := &http.Transport{TLSClientConfig: h.TLS.Clone()}, "http://"
	if h.TLS != nil {
		scheme = "https://"
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+addr+path, nil)
	if err != nil {
		return "", err
	}
	r, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return "", errors.New(r.Status)
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, most))
	return string(text), err
}

// builtFrom is which program a process of this machine runs, and of which commit, as the go command has noted it there.
func builtFrom(pid int) string {
	info, err := buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return "of which nothing is known"
	}
	name, commit := info.Path, ""
	if v := info.Main.Version; v != "" && v != "(devel)" {
		name += " " + v
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) > shortCommit:
			commit = s.Value[:shortCommit]
		case s.Key == "vcs.modified" && s.Value == "true":
			commit += "-dirty"
		}
	}
	if commit != "" {
		name += " (" + commit + ")"
	}
	return name + ", " + info.GoVersion
}

// hinted is an error of asking at an address, with what to do about it if clients and server disagree about TLS. gRPC says of that
// only that a connection was closed.
func (h *externalHost) hinted(ctx context.Context, addr string, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	conn, dialErr := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if dialErr != nil {
		return err
	}
	defer conn.Close()
	config := h.TLS.Clone()
	if config == nil {
		config = &tls.Config{InsecureSkipVerify: true} // it is only seen whether there is TLS
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	config.NextProtos = []string{"h2"}
	said := tls.Client(conn, config).HandshakeContext(ctx)
	var (
		alert    tls.AlertError
		untrusty *tls.CertificateVerificationError
		noTLS    tls.RecordHeaderError
	)
	switch {
	case h.TLS == nil && (said == nil || errors.As(said, &alert)):
		return fmt.Errorf("the target speaks TLS: give -cacert, or https:// before its address if this machine trusts its certificate: %w", err)
	case h.TLS != nil && (errors.As(said, &noTLS) || errors.Is(said, io.EOF) || errors.Is(said, syscall.ECONNRESET)): // it hangs up
		return fmt.Errorf("the target seems not to speak TLS: leave away https:// and the flags for TLS: %w", err)
	case h.TLS != nil && errors.As(said, &untrusty):
		return fmt.Errorf("the target's certificate is not trusted: give -cacert with who has signed it: %w", err)
	}
	return err
}
