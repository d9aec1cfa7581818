package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"weir/cmd/internal/process"
)

const (
	defaultPeerURL   = "http://localhost:2380"
	defaultClientURL = "http://localhost:2379"
)

// clusterFlags are who this member is, how others reach it, and of which cluster it is.
type clusterFlags struct {
	name, dataDir, walDir          string
	advertiseClient, advertisePeer string

	initialCluster, clusterState, clusterToken string
	strictReconfig                             bool
	maxLearners                                int
	discovery                                  [len(discoveryFlags)]string
}

// discoveryFlags ask for the other members to be found.
var discoveryFlags = [...]struct{ name, usage string }{
	{"discovery", "URL of the v2 discovery service, which etcd has no more either."},
	{"discovery-proxy", "HTTP proxy to that service."},
	{"discovery-token", "V3 discovery: token of the cluster to be bootstrapped."},
	{"discovery-endpoints", "V3 discovery: list of gRPC endpoints of the discovery service."},
	{"discovery-srv", "DNS domain used to bootstrap the cluster."},
	{"discovery-srv-name", "Suffix to the DNS name queried when bootstrapping."},
}

func (c *clusterFlags) define(f *process.Flags) {
	f.StringVar(&c.name, "name", "default", "Human-readable name for this member.")
	f.StringVar(&c.dataDir, "data-dir", "", "Path to the data directory. Default is ${name}.weir: it is not compatible with etcd's.")
	f.StringVar(&c.walDir, "wal-dir", "", "Path to the directory of the log. Default is member/wal in the data directory.")
	f.StringVar(&c.advertiseClient, "advertise-client-urls", "", "List of this member's client URLs to advertise to the public. Default is what it listens on.")
	f.StringVar(&c.advertisePeer, "initial-advertise-peer-urls", defaultPeerURL, "List of this member's peer URLs. With the token they decide the ids of a new member and cluster.")
	f.StringVar(&c.initialCluster, "initial-cluster", "", "Initial cluster configuration for bootstrapping, name=url. One member so far.")
	f.StringVar(&c.clusterState, "initial-cluster-state", "new", "Initial cluster state: 'new', or 'existing' to refuse to make a new one.")
	f.StringVar(&c.clusterToken, "initial-cluster-token", "etcd-cluster", "Token of the cluster. When given, data made with another token is refused.")
	f.BoolVar(&c.strictReconfig, "strict-reconfig-check", true, "Reject reconfiguration requests that would cause quorum loss.")
	f.IntVar(&c.maxLearners, "max-learners", 1, "Maximum number of learner members in the cluster.")
	for i, d := range discoveryFlags {
		f.StringVar(&c.discovery[i], d.name, "", d.usage+" A cluster has one voting member so far, so there is nothing to find.")
	}
}

func (c *clusterFlags) apply(f *process.Flags, o *options) error {
	if c.name == "" {
		return errors.New("--name must not be empty")
	}
	for i, d := range discoveryFlags {
		if c.discovery[i] != "" {
			return fmt.Errorf("--%s is not possible yet: a cluster has one voting member so far, this one: leave it out", d.name)
		}
	}
	if err := oneOf("initial-cluster-state", c.clusterState, "new", "existing"); err != nil {
		return err
	}
	if c.maxLearners < 0 {
		return fmt.Errorf("--max-learners=%d is not possible: it must not be negative", c.maxLearners)
	}
	if c.advertisePeer == "" {
		c.advertisePeer = defaultPeerURL
	}
	peerURLs, err := parseAdvertisedURLs("initial-advertise-peer-urls", c.advertisePeer)
	if err != nil {
		return err
	}
	clientURLs, err := c.clientURLs(o.listen.clients)
	if err != nil {
		return err
	}
	if err := c.checkInitialCluster(peerURLs); err != nil {
		return err
	}
	if c.dataDir == "" {
		c.dataDir = c.name + ".weir"
	}
	o.core.Name, o.core.DataDir, o.core.WALDir = c.name, c.dataDir, c.walDir
	o.core.PeerURLs, o.core.ClientURLs = peerURLs, clientURLs
	o.core.ClusterToken, o.core.CheckToken = c.clusterToken, f.Given("initial-cluster-token")
	o.core.JoinExisting = c.clusterState == "existing"
	o.core.LaxReconfigCheck, o.core.MaxLearners = !c.strictReconfig, c.maxLearners
	if c.maxLearners == 0 {
		o.core.MaxLearners = -1 // 0 is the default there
	}
	return nil
}

// clientURLs are what is advertised to clients: what this member listens on, unless something else was given. (etcd demands
// the flag as soon as --listen-client-urls is there.)
func (c *clusterFlags) clientURLs(listen []*url.URL) ([]string, error) {
	if c.advertiseClient != "" {
		return parseAdvertisedURLs("advertise-client-urls", c.advertiseClient)
	}
	var texts []string
	for _, u := range listen {
		if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
			return nil, fmt.Errorf("--advertise-client-urls is required when --listen-client-urls has %s: say under which address clients reach this member", u.Host)
		}
		texts = append(texts, u.String())
	}
	return texts, nil
}

// checkInitialCluster accepts a cluster of this member alone.
func (c *clusterFlags) checkInitialCluster(peerURLs []string) error {
	if c.initialCluster == "" {
		return nil
	}
	var own []string
	for _, pair := range splitList(c.initialCluster) {
		member, peerURL, ok := strings.Cut(pair, "=")
		if !ok || member == "" || peerURL == "" {
			return fmt.Errorf("malformed entry %q in --initial-cluster: give it as name=http://host:port", pair)
		}
		if member != c.name {
			return fmt.Errorf("--initial-cluster names member %q, and this is --name=%s: a cluster has one member so far, this one", member, c.name)
		}
		own = append(own, peerURL)
	}
	slices.Sort(own)
	own = slices.Compact(own)
	if !slices.Equal(own, peerURLs) {
		return fmt.Errorf("--initial-cluster has %s for this member and --initial-advertise-peer-urls has %s: make them equal", strings.Join(own, ","), strings.Join(peerURLs, ","))
	}
	return nil
}
