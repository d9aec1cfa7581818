package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Network is some hosts. Hosts are numbered from 0; the last number is the host of the calling process. Its methods may be
// called concurrently, but Close must be the last.
type Network struct {
	prefix string // of the names of namespaces and devices
	subnet netip.Prefix
	hosts  []*host

	mu    sync.RWMutex // guards links
	links [][]Link     // by sender and receiver

	late    [][]chan packet // likewise: those that have to wait
	closing chan struct{}
	tasks   sync.WaitGroup
}

// host is one namespace, and the end of its wire.
type host struct {
	namespace string // "" is that of the calling process
	device    string
	tun       *os.File
}

// New makes a network of n hosts, n at most 200, beside the one of the calling process. It fails where that is not root, or
// there is no ip(8) or tun(4).
func New(ctx context.Context, n int) (*Network, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make network namespaces: only root may")
	}
	net := &Network{prefix: fmt.Sprintf("weir%d", os.Getpid()), closing: make(chan struct{})}
	if err := net.open(ctx, n); err != nil {
		return nil, errors.Join(fmt.Errorf("make a network of %d hosts: %w", n, err), net.Close())
	}
	return net, nil
}

func (n *Network) open(ctx context.Context, hosts int) error {
	removeOld(ctx)
	// Of those that RFC 2544 sets aside for tests.
	net := rand.N(512)
	n.subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, byte(18 + net>>8), byte(net), 0}), 24)
	n.prefix = fmt.Sprintf("%s-%d", n.prefix, net)
	for i := range hosts + 1 {
		namespace := ""
		if i < hosts {
			namespace = fmt.Sprintf("%s-%d", n.prefix, i)
			if err := ip(ctx, "netns", "add", namespace); err != nil {
				return err
			}
		}
		h := &host{namespace: namespace, device: fmt.Sprintf("w%d.%d.%d", os.Getpid()&0xffff, net, i)}
		n.hosts = append(n.hosts, h)
		if err := h.connect(ctx, netip.PrefixFrom(n.addr(i), n.subnet.Bits())); err != nil {
			return err
		}
	}
	n.links, n.late = make([][]Link, hosts+1), make([][]chan packet, hosts+1)
	for from := range n.hosts {
		n.links[from], n.late[from] = make([]Link, hosts+1), make([]chan packet, hosts+1)
		for to := range n.hosts {
			n.late[from][to] = make(chan packet, maxWaiting)
			n.tasks.Go(func() { n.deliverLate(n.late[from][to], n.hosts[to]) })
		}
		n.tasks.Go(func() { n.forward(from) })
	}
	return nil
}

// connect gives a host its wire and its address.
func (h *host) connect(ctx context.Context, addr netip.Prefix) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(h.device)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	// Only now: what reads from the file waits for its events, and before this it has none.
	h.tun = os.NewFile(uintptr(fd), h.device)
	if err != nil {
		return fmt.Errorf("make the device %s: %w", h.device, err)
	}
	if h.namespace != "" {
		if err := ip(ctx, "link", "set", h.device, "netns", h.namespace); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"addr", "add", addr.String(), "dev", h.device},
		{"link", "set", h.device, "up"},
		{"link", "set", "lo", "up"},
	} {
		if h.namespace != "" {
			args = append([]string{"-n", h.namespace}, args...)
		}
		if err := ip(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func ip(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// removeOld removes namespaces of processes that ended without doing so. What it cannot remove stays.
func removeOld(ctx context.Context) {
	out, err := exec.CommandContext(ctx, "ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest, ours := strings.CutPrefix(name, "weir")
		pid, _, _ := strings.Cut(rest, "-")
		if id, err := strconv.Atoi(pid); ours && err == nil && errors.Is(syscall.Kill(id, 0), syscall.ESRCH) {
			_ = ip(ctx, "netns", "del", name)
		}
	}
}

// addr is the address of a host.
func (n *Network) addr(i int) netip.Addr {
	a := n.subnet.Addr().As4()
	a[3] = byte(i + 1)
	return netip.AddrFrom4(a)
}

// Addr is the IP address of a host.
func (n *Network) Addr(host int) string { return n.addr(host).String() }

// Command is a command line that runs another on a host. The process becomes the other one.
func (n *Network) Command(host int, command ...string) []string {
	if h := n.hosts[host]; h.namespace != "" {
		return append([]string{"ip", "netns", "exec", h.namespace}, command...)
	}
	return command
}

// Device is the name of the network device of a host.
func (n *Network) Device(host int) string { return n.hosts[host].device }

// Set says what happens to packets from now on. Those that are late already stay so.
func (n *Network) Set(from, to int, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[from][to] = l
}

// Mend lets all packets pass again.
func (n *Network) Mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for from := range n.links {
		clear(n.links[from])
	}
}

func (n *Network) link(from, to int) Link {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.links[from][to]
}

// forward is the switch's part for packets of a host. It ends with the device.
func (n *Network) forward(from int) {
	buf := make([]byte, 64<<10)
	for {
		size, err := n.hosts[from].tun.Read(buf)
		if err != nil {
			return
		}
		to, ok := n.receiver(buf[:size])
		if !ok {
			continue
		}
		n.link(from, to).pass(buf[:size], n.hosts[to].receive, func(p packet) {
			select {
			case n.late[from][to] <- p:
			default:
			}
		})
	}
}

// receiver is the host that an IPv4 packet is for.
func (n *Network) receiver(data []byte) (int, bool) {
	const header = 20
	if len(data) < header || data[0]>>4 != 4 {
		return 0, false // IPv6 looks for neighbours
	}
	addr := netip.AddrFrom4([4]byte(data[16:20]))
	i := int(data[19]) - 1
	return i, n.subnet.Contains(addr) && i >= 0 && i < len(n.hosts)
}

// receive gives a packet to a host. One that it does not take is lost, as on a wire.
func (h *host) receive(data []byte) { _, _ = h.tun.Write(data) }

// deliverLate gives packets to a host when they are due, in order.
func (n *Network) deliverLate(late <-chan packet, to *host) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case p := <-late:
			t.Reset(time.Until(p.due))
			select {
			case <-t.C:
				to.receive(p.data)
			case <-n.closing:
				return
			}
		case <-n.closing:
			return
		}
	}
}

// Close removes the hosts, on which nothing may run any more.
func (n *Network) Close() error {
	close(n.closing)
	var errs []error
	for _, h := range n.hosts {
		if h.tun != nil {
			errs = append(errs, h.tun.Close())
		}
		if h.namespace != "" {
			errs = append(errs, ip(context.Background(), "netns", "del", h.namespace))
		}
	}
	n.tasks.Wait()
	return errors.Join(errs...)
}
