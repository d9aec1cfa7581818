package main

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"weir/cmd/internal/process"
	"weir/core"
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
	forceNewCluster                            bool
	strictReconfig                             bool
	maxLearners                                int
	srvDomain, srvName                         string
	services                                   [len(discoveryServices)]string
}

// discoveryServices are flags of services that tell the other members, which DNS does too.
var discoveryServices = [...]struct{ name, usage string }{
	{"discovery", "URL of the v2 discovery service, which etcd has no more either."},
	{"discovery-proxy", "HTTP proxy to that service."},
	{"discovery-token", "V3 discovery: token of the cluster to be bootstrapped."},
	{"discovery-endpoints", "V3 discovery: list of gRPC endpoints of the discovery service."},
}

func (c *clusterFlags) define(f *process.Flags) {
	f.StringVar(&c.name, "name", "default", "Human-readable name for this member.")
	f.StringVar(&c.dataDir, "data-dir", "", "Path to the data directory. Default is ${name}.weir: it is not compatible with etcd's.")
	f.StringVar(&c.walDir, "wal-dir", "", "Path to the directory of the log. Default is member/wal in the data directory.")
	f.StringVar(&c.advertiseClient, "advertise-client-urls", "", "List of this member's client URLs to advertise to the public. Default is what it listens on.")
	f.StringVar(&c.advertisePeer, "initial-advertise-peer-urls", defaultPeerURL, "List of this member's peer URLs. With the token they decide the ids of a new member and cluster.")
	f.StringVar(&c.initialCluster, "initial-cluster", "", "Members of the cluster, name=url,name=url: the same for all of a new one.")
	f.StringVar(&c.clusterState, "initial-cluster-state", "new", "Initial cluster state: 'new', or 'existing' for a member without data to join the cluster that has added it.")
	f.StringVar(&c.clusterToken, "initial-cluster-token", "etcd-cluster", "Token of the cluster. When given, data made with another token is refused.")
	f.BoolVar(&c.strictReconfig, "strict-reconfig-check", true, "Reject reconfiguration requests that would cause quorum loss.")
	f.IntVar(&c.maxLearners, "max-learners", 1, "Maximum number of learner members in the cluster.")
	f.BoolVar(&c.forceNewCluster, "force-new-cluster", false, "Make this member, which has data, the only one of its cluster: when a majority is lost for good. UNSAFE: the others must not run any more.")
	f.StringVar(&c.srvDomain, "discovery-srv", "", "DNS domain whose SRV records name the members of the cluster, instead of --initial-cluster.")
	f.StringVar(&c.srvName, "discovery-srv-name", "", "Suffix to the names of the services that are looked for there.")
	for i, d := range discoveryServices {
		f.StringVar(&c.services[i], d.name, "", d.usage+" Not there.")
	}
}

func (c *clusterFlags) apply(f *process.Flags, o *options) error {
	var wrong process.Mistakes
	if c.name == "" {
		wrong.Addf("--name must not be empty")
	}
	for i, d := range discoveryServices {
		if c.services[i] != "" {
			wrong.Addf("--%s is not possible: name the members with --initial-cluster, or have DNS do so with --discovery-srv", d.name)
		}
	}
	if c.srvDomain != "" && c.initialCluster != "" {
		wrong.Addf("--discovery-srv and --initial-cluster are both given: choose one")
	}
	wrong.Add(oneOf("initial-cluster-state", c.clusterState, "new", "existing"))
	if c.maxLearners < 0 {
		wrong.Addf("--max-learners=%d is not possible: it must not be negative", c.maxLearners)
	}
	if c.advertisePeer == "" {
		c.advertisePeer = defaultPeerURL
	}
	peerURLs, err := parseAdvertisedURLs("initial-advertise-peer-urls", c.advertisePeer)
	wrong.Add(err)
	clientURLs, err := c.clientURLs(o.listen.clients)
	wrong.Add(err)
	initial, err := c.parseInitialCluster()
	wrong.Add(err)
	if c.dataDir == "" {
		c.dataDir = c.name + ".weir"
	}
	o.core.Name, o.core.DataDir, o.core.WALDir = c.name, c.dataDir, c.walDir
	o.core.PeerURLs, o.core.ClientURLs, o.core.InitialCluster = peerURLs, clientURLs, initial
	o.core.ClusterToken, o.core.CheckToken = c.clusterToken, f.Given("initial-cluster-token")
	o.core.JoinExisting, o.core.ForceNewCluster = c.clusterState == "existing", c.forceNewCluster
	if c.srvDomain != "" {
		o.discovery = &discovery{domain: c.srvDomain, service: c.srvName, name: c.name, peerURLs: peerURLs, resolver: net.DefaultResolver}
	}
	o.core.LaxReconfigCheck, o.core.MaxLearners = !c.strictReconfig, c.maxLearners
	if c.maxLearners == 0 {
		o.core.MaxLearners = -1 // 0 is the default there
	}
	return wrong.Err()
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

// parseInitialCluster returns the members of the cluster, in the order of their names; none if the flag was not given. As at etcd it
// need not fit a member that has data, which it does not count for.
func (c *clusterFlags) parseInitialCluster() ([]core.InitialMember, error) {
	if c.initialCluster == "" {
		return nil, nil
	}
	urls := map[string][]string{}
	owner := map[string]string{}
	for _, pair := range splitList(c.initialCluster) {
		name, peerURL, ok := strings.Cut(pair, "=")
		if !ok || name == "" || peerURL == "" {
			return nil, fmt.Errorf("malformed entry %q in --initial-cluster: give it as name=http://host:port", pair)
		}
		parsed, err := parseAdvertisedURLs("initial-cluster", peerURL)
		if err != nil {
			return nil, err
		}
		for _, u := range parsed {
			if other, used := owner[u]; used && other != name {
				return nil, fmt.Errorf("--initial-cluster has %s for %q and for %q: give each member its own", u, other, name)
			}
			owner[u] = name
		}
		urls[name] = append(urls[name], parsed...)
	}
	var members []core.InitialMember
	for _, name := range slices.Sorted(maps.Keys(urls)) {
		members = append(members, core.InitialMember{Name: name, PeerURLs: slices.Compact(slices.Sorted(slices.Values(urls[name])))})
	}
	return members, nil
}
