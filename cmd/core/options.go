package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"weir/cmd/internal/process"
	"weir/core"
)

// options is the command line, checked.
type options struct {
	core             core.Config
	maxTxnOps        int
	maxRequestBytes  int
	progressInterval time.Duration
	listenClientURLs []*url.URL
	logLevel         string
	logOutputs       []string
	version          bool

	usage func(io.Writer)
}

// maxRequestLimit keeps a request within what one record of the log, and one gRPC message, can hold.
const maxRequestLimit = 512 << 20

// maxElectionTimeout in milliseconds is etcd's.
const maxElectionTimeout = 50_000

const (
	defaultPeerURL   = "http://localhost:2380"
	defaultClientURL = "http://localhost:2379"
)

// parseOptions reads flags with the names and defaults of etcd's server.
func parseOptions(args, environ []string) (options, error) {
	f := process.NewFlags("core", "ETCD")
	var (
		name            = f.String("name", "default", "Human-readable name for this member.")
		dataDir         = f.String("data-dir", "", "Path to the data directory. Default is ${name}.weir: it is not compatible with etcd's.")
		listenClient    = f.String("listen-client-urls", defaultClientURL, "List of URLs to listen on for client traffic, gRPC and HTTP.")
		advertiseClient = f.String("advertise-client-urls", "", "List of this member's client URLs to advertise to the public. Default is what it listens on.")
		listenPeer      = f.String("listen-peer-urls", defaultPeerURL, "List of URLs to listen on for peer traffic. Checked, but not listened on: a cluster has one member so far.")
		advertisePeer   = f.String("initial-advertise-peer-urls", defaultPeerURL, "List of this member's peer URLs. With the token they decide the ids of a new member and cluster.")
		initialCluster  = f.String("initial-cluster", "", "Initial cluster configuration for bootstrapping, name=url. One member so far.")
		clusterState    = f.String("initial-cluster-state", "new", "Initial cluster state: 'new', or 'existing' to refuse to make a new one.")
		clusterToken    = f.String("initial-cluster-token", "etcd-cluster", "Token of the cluster. When given, data made with another token is refused.")
		logLevel        = f.String("log-level", "info", "Log level: debug, info, warn, error, panic, or fatal.")
		logOutputs      = f.String("log-outputs", "default", "Where logs go: 'stdout', 'stderr' (default), or files, separated by commas.")
		snapshotCount   = f.Uint64("snapshot-count", 10_000, "Number of committed entries after which the log is cut.")
		quota           = f.Int64("quota-backend-bytes", 0, "Size of the store's file at which writes are refused with an alarm. 0 is 2 GiB, negative is none.")
		maxTxnOps       = f.Uint("max-txn-ops", 128, "Maximum number of operations permitted in a transaction.")
		maxRequest      = f.Uint("max-request-bytes", 3<<19, "Maximum client request size in bytes the server will accept.")
		heartbeat       = f.Uint("heartbeat-interval", 100, "Time in milliseconds of a heartbeat interval.")
		election        = f.Uint("election-timeout", 1000, "Time in milliseconds for an election to time out.")
		progress        = f.Duration("watch-progress-notify-interval", 10*time.Minute, "Duration of periodic watch progress notifications (0 is 10m).")
		noFsync         = f.Bool("unsafe-no-fsync", false, "Never wait for the disk. UNSAFE: what was acknowledged is lost when the machine loses power.")
		version         = f.Bool("version", false, "Print the version and exit.")
	)
	o := options{usage: f.Usage}
	f.NotThere(notThereYet...)
	if err := f.Parse(args, environ); err != nil {
		return o, err
	}
	o.version, o.logLevel, o.maxTxnOps = *version, *logLevel, int(*maxTxnOps)
	o.maxRequestBytes, o.progressInterval = int(*maxRequest), *progress
	o.logOutputs = splitList(*logOutputs)

	var err error
	if o.listenClientURLs, err = parseURLs("listen-client-urls", *listenClient); err != nil {
		return o, err
	}
	if *advertiseClient == "" {
		if err := checkAdvertisable(o.listenClientURLs); err != nil {
			return o, err
		}
		*advertiseClient = *listenClient
	}
	for _, list := range []struct{ flag, value string }{
		{"advertise-client-urls", *advertiseClient},
		{"listen-peer-urls", *listenPeer},
		{"initial-advertise-peer-urls", *advertisePeer},
	} {
		if _, err := parseURLs(list.flag, list.value); err != nil {
			return o, err
		}
	}
	if err := checkInitialCluster(*initialCluster, *name, *advertisePeer); err != nil {
		return o, err
	}
	if *clusterState != "new" && *clusterState != "existing" {
		return o, fmt.Errorf("--initial-cluster-state=%s is unknown: use new or existing", *clusterState)
	}
	if *dataDir == "" {
		*dataDir = *name + ".weir"
	}
	if *maxRequest > maxRequestLimit {
		return o, fmt.Errorf("--max-request-bytes=%d is not possible: at most %d", *maxRequest, maxRequestLimit)
	}
	if *name == "" {
		return o, errors.New("--name must not be empty")
	}
	if *election > maxElectionTimeout {
		return o, fmt.Errorf("--election-timeout=%d is too long: at most %d", *election, maxElectionTimeout)
	}
	if *progress < 0 {
		return o, fmt.Errorf("--watch-progress-notify-interval=%v is not possible: it must not be negative", *progress)
	}
	if *heartbeat == 0 || *election == 0 {
		return o, errors.New("--heartbeat-interval and --election-timeout must be positive")
	}
	o.core = core.Config{
		Name:              *name,
		DataDir:           *dataDir,
		PeerURLs:          splitList(*advertisePeer),
		ClientURLs:        splitList(*advertiseClient),
		ClusterToken:      *clusterToken,
		CheckToken:        f.Given("initial-cluster-token"),
		JoinExisting:      *clusterState == "existing",
		SnapshotCount:     *snapshotCount,
		QuotaBytes:        *quota,
		HeartbeatInterval: time.Duration(*heartbeat) * time.Millisecond,
		ElectionTimeout:   time.Duration(*election) * time.Millisecond,
		UnsafeNoFsync:     *noFsync,
	}
	return o, nil
}

// splitList splits at commas, and drops the space around.
func splitList(list string) []string {
	elements := strings.Split(list, ",")
	for i := range elements {
		elements[i] = strings.TrimSpace(elements[i])
	}
	return elements
}

// parseURLs splits a list of URLs as etcd does: scheme, host and port, no path.
func parseURLs(flag, list string) ([]*url.URL, error) {
	var urls []*url.URL
	for _, s := range splitList(list) {
		u, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("malformed URL %q in --%s: give it as http://host:port", s, flag)
		}
		switch u.Scheme {
		case "http":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" {
				return nil, fmt.Errorf("malformed URL %q in --%s: give it as http://host:port", s, flag)
			}
		case "unix":
			if u.Host+u.Path == "" {
				return nil, fmt.Errorf("malformed URL %q in --%s: give it as unix://path", s, flag)
			}
		case "https":
			return nil, fmt.Errorf("%q in --%s: the core has no TLS yet; put a proxy with --cert-file before it, or use http", s, flag)
		default:
			return nil, fmt.Errorf("malformed URL %q in --%s: give it as http://host:port", s, flag)
		}
		urls = append(urls, u)
	}
	return urls, nil
}

// checkAdvertisable refuses to advertise "any address", which no client can dial.
func checkAdvertisable(urls []*url.URL) error {
	for _, u := range urls {
		if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
			return fmt.Errorf("--advertise-client-urls is required when --listen-client-urls has %s: say under which address clients reach this member", u.Host)
		}
	}
	return nil
}

// checkInitialCluster accepts a cluster of this member alone.
func checkInitialCluster(list, name, peerURLs string) error {
	if list == "" {
		return nil
	}
	var own []string
	for _, pair := range splitList(list) {
		member, peerURL, ok := strings.Cut(pair, "=")
		if !ok || member == "" || peerURL == "" {
			return fmt.Errorf("malformed entry %q in --initial-cluster: give it as name=http://host:port", pair)
		}
		if member != name {
			return fmt.Errorf("--initial-cluster names member %q, and this is --name=%s: a cluster has one member so far, this one", member, name)
		}
		own = append(own, peerURL)
	}
	if !slices.Equal(own, splitList(peerURLs)) {
		return fmt.Errorf("--initial-cluster has %s for this member and --initial-advertise-peer-urls has %s: make them equal", strings.Join(own, ","), peerURLs)
	}
	return nil
}

// listen opens all client URLs.
func listen(urls []*url.URL) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, u := range urls {
		network, address := "tcp", u.Host
		if u.Scheme == "unix" {
			network, address = "unix", u.Host+u.Path
			if err := removeStaleSocket(address); err != nil {
				closeAll(listeners)
				return nil, err
			}
		}
		l, err := net.Listen(network, address)
		if err != nil {
			closeAll(listeners)
			return nil, process.ListenError(u.String(), "listen-client-urls", err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// removeStaleSocket removes a unix socket that nobody listens on any more, left by a process that was killed.
func removeStaleSocket(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return nil // net.Listen says what is wrong
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("listen on unix://%s: another process listens there: stop it, or give another --listen-client-urls", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the socket of a process that is gone: %w", err)
	}
	return nil
}
