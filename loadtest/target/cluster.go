package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"weir/loadtest/network"
	"weir/loadtest/proc"
)

// Cluster is a number of members of one cluster. Its methods must not be called concurrently.
type Cluster struct {
	// Members serve when StartCluster returns. A caller may kill, pause and restart each.
	Members []*Member

	program proc.Program
	path    string // of the program
	dir     string // of the members' data
	options ClusterOptions
	placed  int // so many members there have been
}

// Member is one member of a cluster.
type Member struct {
	*Server
	Name    string
	Peer    string // host:port where the other members reach it
	DataDir string

	args []string
	host int // in a network
}

// ClusterOptions are how a cluster is started. The zero value is as plain as can be.
type ClusterOptions struct {
	Members int      // 0 is 1
	Args    []string // added to the command line of each member
	// PeerVia, if set, is asked for the address at which the other members shall reach the one that listens on addr.
	PeerVia func(addr string) string
	// Network, if set, has the members on its first hosts.
	Network *network.Network
}

// StartCluster starts members with empty stores, whose data will be in directories below dir, and returns when each of
// them answers linearizable reads.
func StartCluster(ctx context.Context, bin *proc.Bin, program proc.Program, dir string, o ClusterOptions) (*Cluster, error) {
	c, n := &Cluster{}, max(1, o.Members)
	if err := c.start(ctx, bin, program, n, dir, o); err != nil {
		return nil, errors.Join(fmt.Errorf("start a cluster of %d %s: %w", n, program, err), c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, bin *proc.Bin, program proc.Program, n int, dir string, o ClusterOptions) error {
	path, err := bin.Build(ctx, program)
	if err != nil {
		return err
	}
	c.program, c.path, c.dir, c.options = program, path, dir, o
	var members []*Member
	for range n {
		m, err := c.Next()
		if err != nil {
			return err
		}
		members = append(members, m)
	}
	for _, m := range members {
		var more []string
		if n > 1 {
			more = append(more, "--initial-cluster="+InitialCluster(members))
		}
		if err := c.run(m, more...); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}

// Next is a member that does not run yet, for Join. Its Peer is what the cluster has to be told before.
func (c *Cluster) Next() (*Member, error) {
	name := fmt.Sprintf("m%d", c.placed+1)
	return c.place(name, name)
}

// Elsewhere is a member of the same name at another place, for Join: with another address, on another host if there is a network,
// and with another directory, which is not there yet.
func (c *Cluster) Elsewhere(m *Member) (*Member, error) {
	return c.place(m.Name, fmt.Sprintf("%s-at-%d", m.Name, c.placed+1))
}

func (c *Cluster) place(name, dir string) (m *Member, err error) {
	m = &Member{Server: &Server{}, Name: name, DataDir: filepath.Join(c.dir, dir), host: c.placed}
	c.placed++
	if n := c.options.Network; n != nil {
		m.Addr, m.Peer = net.JoinHostPort(n.Addr(m.host), "2379"), net.JoinHostPort(n.Addr(m.host), "2380")
	} else if m.Addr, m.Peer, err = twoFreeAddrs(); err != nil {
		return nil, err
	}
	m.args = append(MemberArgs(m.Name, m.DataDir, m.Addr, m.Peer), c.options.Args...)
	if c.options.PeerVia != nil {
		m.Peer = c.options.PeerVia(m.Peer)
		m.args = append(m.args, "--initial-advertise-peer-urls=http://"+m.Peer)
	}
	return m, nil
}

// run starts a member, whose arguments are what it was given and more.
func (c *Cluster) run(m *Member, more ...string) error {
	if err := c.StartAs(m, more...); err != nil {
		return err
	}
	c.Members = append(c.Members, m)
	return nil
}

// StartAs starts a member that does not run, with more arguments than are its own.
func (c *Cluster) StartAs(m *Member, more ...string) (err error) {
	command := slices.Concat([]string{c.path}, m.args, more)
	if c.options.Network != nil {
		command = c.options.Network.Command(m.host, command...)
	}
	m.Process, err = proc.Start(string(c.program)+" "+m.Name, command[0], command[1:], nil)
	return err
}

// Join starts a member that the cluster has been told of. It does not wait for it.
func (c *Cluster) Join(m *Member) error {
	return c.run(m, "--initial-cluster="+InitialCluster(append(slices.Clone(c.Members), m)), "--initial-cluster-state=existing")
}

// Forget lets a member that was removed from the cluster, and has ended, be no part of it any more.
func (c *Cluster) Forget(m *Member) {
	c.Members = slices.DeleteFunc(c.Members, func(other *Member) bool { return other == m })
}

// InitialCluster is what the flag --initial-cluster wants to know of all members.
func InitialCluster(members []*Member) string {
	var s []string
	for _, m := range members {
		s = append(s, m.Name+"=http://"+m.Peer)
	}
	return strings.Join(s, ",")
}

// WaitReady waits until each member answers a linearizable read.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for _, m := range c.Members {
		if err := m.WaitReady(ctx, Serves(m.Addr)); err != nil {
			return err
		}
	}
	return nil
}

// Endpoints are the addresses of the members.
func (c *Cluster) Endpoints() []string {
	var s []string
	for _, m := range c.Members {
		s = append(s, m.Addr)
	}
	return s
}

// Metric is the sum of all members' metrics whose name and labels begin so.
func (c *Cluster) Metric(ctx context.Context, name string) (int, error) {
	sum := 0
	for _, m := range c.Members {
		n, err := m.Metric(ctx, name)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Close ends the members, those too that are paused. A member that ended by itself or will not end is an error.
func (c *Cluster) Close() error {
	var errs []error
	for _, m := range c.Members {
		if m.Process != nil {
			errs = append(errs, m.Resume(), m.Stop())
		}
	}
	c.Members = nil
	return errors.Join(errs...)
}

// StartProxy starts weir's proxy before the servers at endpoints and returns when it serves.
func StartProxy(ctx context.Context, bin *proc.Bin, endpoints []string, args ...string) (*Server, error) {
	path, err := bin.Build(ctx, proc.Proxy)
	if err != nil {
		return nil, err
	}
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	args = append([]string{"--listen-addr=" + addr, "--endpoints=" + strings.Join(endpoints, ",")}, args...)
	p, err := proc.Start(string(proc.Proxy), path, args, nil)
	if err != nil {
		return nil, err
	}
	if err := p.WaitReady(ctx, Serves(addr)); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return &Server{Process: p, Addr: addr}, nil
}
