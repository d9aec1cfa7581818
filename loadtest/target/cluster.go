package target

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"weir/loadtest/proc"
)

// Cluster is a number of members of one cluster. Its methods must not be called concurrently.
type Cluster struct {
	// Members serve when StartCluster returns. A caller may kill, pause and restart each.
	Members []*Member
}

// Member is one member of a cluster.
type Member struct {
	*Server
	Name    string
	Peer    string // host:port where the other members reach it
	DataDir string
}

// ClusterOptions are how a cluster is started. The zero value is as plain as can be.
type ClusterOptions struct {
	Members int      // 0 is 1
	Args    []string // added to the command line of each member
	// PeerVia, if set, is asked for the address at which the other members shall reach the one that listens on addr.
	PeerVia func(addr string) string
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
	var (
		members []*Member
		args    [][]string
	)
	for i := range n {
		m := &Member{Name: fmt.Sprintf("m%d", i+1), DataDir: filepath.Join(dir, fmt.Sprintf("m%d", i+1)), Server: &Server{}}
		if m.Addr, err = proc.FreeAddr(); err != nil {
			return err
		}
		if m.Peer, err = proc.FreeAddr(); err != nil {
			return err
		}
		own := append(MemberArgs(m.Name, m.DataDir, m.Addr, m.Peer), o.Args...)
		if o.PeerVia != nil {
			m.Peer = o.PeerVia(m.Peer)
			own = append(own, "--initial-advertise-peer-urls=http://"+m.Peer)
		}
		members, args = append(members, m), append(args, own)
	}
	for i, m := range members {
		own := args[i]
		if n > 1 {
			own = append(own, "--initial-cluster="+InitialCluster(members))
		}
		if m.Process, err = proc.Start(string(program)+" "+m.Name, path, own, nil); err != nil {
			return err
		}
		c.Members = append(c.Members, m)
	}
	return c.WaitReady(ctx)
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
