package core

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How a member that has no data finds out who it is: one of the founders of a new cluster, or one whom a cluster has added
// (Config.JoinExisting). It asks members at their peer URLs, over HTTP, as etcd does: they cannot be called yet, since that takes
// an id.

// The headers of an answer to GET /members that have the cluster's id. An etcd member's answer is alike, but for weir's header.
const (
	etcdClusterHeader = "X-Etcd-Cluster-ID"
	weirClusterHeader = "X-Weir-Cluster-ID"
	// weirLevelHeader has the level that the members have agreed on; see agreement.
	weirLevelHeader = "X-Weir-Level"
)

const (
	// joinTimeout is how long one peer URL may take to answer, as at etcd.
	joinTimeout = 10 * time.Second
	// foundTimeout is the same when there probably is no cluster yet.
	foundTimeout = time.Second
	// resolveTimeout is how long DNS may take where names are compared.
	resolveTimeout = 10 * time.Second
	// maxMembersAnswer bounds in bytes what is read of an answer.
	maxMembersAnswer = 1 << 20
)

// ServeMembers answers GET /members at the peer URLs: the members as this one knows them, in the form in which etcd's stores keep
// them.
func (n *Node) ServeMembers(w http.ResponseWriter, _ *http.Request) {
	body, err := json.Marshal(n.members.records())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	id := idString(n.member.ClusterID)
	w.Header().Set(etcdClusterHeader, id)
	w.Header().Set(weirClusterHeader, id)
	w.Header().Set(weirLevelHeader, strconv.Itoa(n.agreement.level()))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // who has asked may be gone
}

// newIdentity says who this member, which has no data, is.
func (n *Node) newIdentity() (member, error) {
	initial := n.cfg.InitialCluster
	if len(initial) == 0 {
		var err error
		if initial, err = n.cfg.Discover(n.ctx); err != nil {
			return member{}, err
		}
	}
	self, err := ownEntry(initial, n.cfg.Name)
	if err != nil {
		return member{}, err
	}
	var others []string
	for i, m := range initial {
		if i != self {
			others = append(others, m.PeerURLs...)
		}
	}
	slices.Sort(others)
	if n.cfg.JoinExisting {
		return n.join(initial, initial[self], others)
	}
	if err := checkOwnURLs(n.ctx, initial[self].PeerURLs, n.cfg.PeerURLs); err != nil {
		return member{}, err
	}
	founder := newMember(initial, initial[self].PeerURLs, n.cfg.ClusterToken)
	if len(n.cfg.InitialCluster) == 0 {
		for i := range founder.Founders { // so that all begin with the same
			founder.Founders[i].Name = ""
		}
	}
	// Who has been a member with this id, and has lost its data, must not found anything: it would have forgotten how it has voted.
	known, err := n.askForMembers(others, foundTimeout)
	switch {
	case errors.Is(err, errNoAnswer): // so it is the first one, or they are down
		return founder, nil
	case err != nil:
		return member{}, err
	case known.id == founder.ClusterID && known.hasStarted(founder.ID):
		return member{}, fmt.Errorf("member %s has already been bootstrapped: start it with its data directory, or remove it from the cluster, add it again and start it with --initial-cluster-state=existing", idString(founder.ID))
	case known.id != founder.ClusterID && known.isFormed():
		// etcd founds it, and then waits forever for members who refuse it.
		return member{}, fmt.Errorf("found cluster %s: members of --initial-cluster are those of cluster %s, which has been formed: add this member to that and start it with --initial-cluster-state=existing, or give the --initial-cluster and --initial-cluster-token with which that was founded",
			idString(founder.ClusterID), idString(known.id))
	}
	return founder, nil
}

// ownEntry finds the member of a name.
func ownEntry(initial []InitialMember, name string) (int, error) {
	self := slices.IndexFunc(initial, func(m InitialMember) bool { return m.Name == name })
	if self < 0 {
		return 0, fmt.Errorf("the initial cluster has no member of the name %q, which is this one's: give --name, or add it to --initial-cluster", name)
	}
	return self, nil
}

// checkOwnURLs refuses a member whose peer URLs are others in the initial cluster than those that it advertises.
func checkOwnURLs(ctx context.Context, initial, advertised []string) error {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	if !sameURLs(ctx, initial, advertised) {
		return fmt.Errorf("the initial cluster has %s for this member and --initial-advertise-peer-urls has %s: make them equal",
			strings.Join(initial, ","), strings.Join(advertised, ","))
	}
	return nil
}

// join says who this member is in the cluster that has added it.
func (n *Node) join(initial []InitialMember, self InitialMember, others []string) (member, error) {
	cluster, err := n.askForMembers(others, joinTimeout)
	if err != nil {
		return member{}, fmt.Errorf("join the cluster of --initial-cluster: %w", err)
	}
	if err := mustKnow(cluster.level, n.cfg.level); err != nil {
		return member{}, fmt.Errorf("join cluster %s: %w", idString(cluster.id), err)
	}
	if len(cluster.members) != len(initial) {
		return member{}, fmt.Errorf("join cluster %s: it has %d members and --initial-cluster has %d: add this member, and name exactly those that 'member list' shows",
			idString(cluster.id), len(cluster.members), len(initial))
	}
	ctx, cancel := context.WithTimeout(n.ctx, resolveTimeout)
	defer cancel()
	joined := member{Format: memberFormat, ClusterID: cluster.id, Token: n.cfg.ClusterToken, Joined: cluster.members}
	for _, r := range cluster.members {
		i := slices.IndexFunc(initial, func(m InitialMember) bool { return sameURLs(ctx, m.PeerURLs, r.PeerURLs) })
		if i < 0 {
			return member{}, fmt.Errorf("join cluster %s: --initial-cluster has no member with the peer URLs of its member %s, which are %s",
				idString(cluster.id), idString(r.ID), strings.Join(r.PeerURLs, ","))
		}
		if initial[i].Name == self.Name {
			joined.ID = r.ID
		}
	}
	learners := 0
	for _, r := range cluster.members {
		if r.IsLearner {
			learners++
		}
	}
	switch {
	case joined.ID == 0: // two members of the cluster are the same one of --initial-cluster
		return member{}, fmt.Errorf("join cluster %s: it has no member with the peer URLs of this one, which are %s", idString(cluster.id), strings.Join(self.PeerURLs, ","))
	case cluster.hasStarted(joined.ID):
		// etcd lets it join. It would have forgotten entries that it said it had, and they might be lost for all.
		return member{}, fmt.Errorf("join cluster %s: member %s was started before, with data that is not here: start it with its data directory, or remove it from the cluster and add it again",
			idString(cluster.id), idString(joined.ID))
	case learners > n.cfg.MaxLearners:
		return member{}, fmt.Errorf("join cluster %s: it has %d learners, more than --max-learners=%d", idString(cluster.id), learners, n.cfg.MaxLearners)
	}
	if !sameURLs(ctx, self.PeerURLs, n.cfg.PeerURLs) { // etcd does not look
		n.logger.Warn("the members call this one at the peer URLs with which it was added, and not at those of --initial-advertise-peer-urls: it must listen there",
			"called-at", strings.Join(self.PeerURLs, ","), "initial-advertise-peer-urls", strings.Join(n.cfg.PeerURLs, ","))
	}
	return joined, nil
}

// remoteCluster is the membership as another member tells it.
type remoteCluster struct {
	id      uint64
	level   int // that its members have agreed on
	members []memberRecord
}

// hasStarted tells whether a member has ever served.
func (c *remoteCluster) hasStarted(id uint64) bool {
	return slices.ContainsFunc(c.members, func(r memberRecord) bool { return r.ID == id && len(r.ClientURLs) > 0 })
}

// isFormed tells whether anybody has ever served.
func (c *remoteCluster) isFormed() bool {
	return slices.ContainsFunc(c.members, func(r memberRecord) bool { return len(r.ClientURLs) > 0 })
}

// errNoAnswer says that nobody can be asked.
var errNoAnswer = errors.New("no peer URL answers")

// askForMembers asks at one peer URL after the other who the members are, and takes the first answer.
func (n *Node) askForMembers(peerURLs []string, timeout time.Duration) (*remoteCluster, error) {
	failure := errNoAnswer
	for _, u := range peerURLs {
		ctx, cancel := context.WithTimeout(n.ctx, timeout)
		cluster, err := getMembers(ctx, u, n.peerTLS())
		cancel()
		switch {
		case err == nil:
			return cluster, nil
		case errors.Is(err, errEtcd):
			return nil, fmt.Errorf("%s: %w", u, err)
		}
		failure = fmt.Errorf("%w: %s: %w", errNoAnswer, u, err)
		n.logger.Debug("cannot learn the members", "peer-url", u, "error", err)
	}
	return nil, failure
}

var errEtcd = errors.New("this is a member of an etcd cluster, which a weir member cannot join: give the members of a weir cluster, or start a new one and copy the data with a snapshot")

// peerTLS is the configuration of one connection, nil without one.
func (n *Node) peerTLS() *tls.Config {
	if n.cfg.PeerTLS == nil {
		return nil
	}
	return n.cfg.PeerTLS()
}

// getMembers asks at one peer URL. The configuration becomes its own.
func getMembers(ctx context.Context, peerURL string, secure *tls.Config) (*remoteCluster, error) {
	u, err := url.Parse(peerURL)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure}
	switch u.Scheme {
	case "unix", "unixs":
		path := u.Host + u.Path
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		u = &url.URL{Scheme: strings.Replace(u.Scheme, "unix", "http", 1), Host: "localhost"}
	}
	u.Path = "/members"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxMembersAnswer))
	if err != nil {
		return nil, fmt.Errorf("read who the members are: %w", err)
	}
	return decodeMembers(response, body)
}

// decodeMembers reads the answer to GET /members.
func decodeMembers(response *http.Response, body []byte) (*remoteCluster, error) {
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it does not tell the members: %s", response.Status)
	}
	id, err := strconv.ParseUint(response.Header.Get(etcdClusterHeader), 16, 64)
	if err != nil {
		return nil, errors.New("it is no member of a cluster")
	}
	if response.Header.Get(weirClusterHeader) == "" {
		return nil, errEtcd
	}
	level, err := strconv.Atoi(cmp.Or(response.Header.Get(weirLevelHeader), strconv.Itoa(firstLevel)))
	if err != nil {
		return nil, fmt.Errorf("header %s: %w", weirLevelHeader, err)
	}
	cluster := &remoteCluster{id: id, level: level}
	if err := json.Unmarshal(body, &cluster.members); err != nil {
		return nil, fmt.Errorf("decode who the members are: %w", err)
	}
	if len(cluster.members) == 0 {
		return nil, errors.New("it does not know yet who the members are")
	}
	return cluster, nil
}

// sameURLs tells whether two lists of URLs lead to the same places. As at etcd, hosts that are not written alike are compared by
// what DNS says.
func sameURLs(ctx context.Context, a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b) || slices.Equal(resolved(ctx, a), resolved(ctx, b))
}

// resolved returns URLs with addresses in place of names, as far as there are any.
func resolved(ctx context.Context, urls []string) []string {
	var all []string
	for _, s := range urls {
		if u, err := url.Parse(s); err == nil && u.Hostname() != "localhost" && u.Port() != "" {
			if addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname()); err == nil {
				u.Host = net.JoinHostPort(addresses[0], u.Port())
				s = u.String()
			}
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}
