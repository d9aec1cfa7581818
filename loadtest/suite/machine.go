package suite

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"weir/loadtest/report"
)

// machineOf is this machine, with the disk on which a directory is. What the system does not tell is left out.
func machineOf(dir string) (report.Machine, error) {
	m := report.Machine{
		Processor: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.OS = "Linux " + strings.TrimSpace(string(release)) + " " + runtime.GOARCH
	}
	if kib, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.Memory = kib << 10
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(load), " ")
		m.Load, _ = strconv.ParseFloat(first, 64)
	}
	m.Filesystem = filesystem(dir)
	var err error
	m.Fdatasync, err = fdatasync(dir)
	return m, err
}

// field is what a file of lines "name: value" has for a name first; "" if it has none, or is not there.
func field(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if what, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(what) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// caveats are those of a run with such systems, of which some may run already. They say of these only what is known of them.
func caveats(systems []report.System, external []External) []string {
	all := []string{
		"The clients are this program's own, with a small HTTP/2 client that sends the requests of many of them in one write and reads as many answers " +
			"at once: it leaves the servers more of a machine than clients of the usual libraries would, and has them read less often. So the numbers " +
			"are not those of etcd's own benchmark, which has other clients.",
	}
	started := slices.ContainsFunc(systems, func(s report.System) bool { return !s.External })
	if shared := sharing(started, external); shared != "" {
		all = append(all, shared)
	}
	all = append(all, network(started, external))
	if started {
		all = append(all, "Every server that was started runs with its default flags, those of addresses, names and directories aside, unless a scenario's description "+
			"says otherwise. By default weir's servers let the heap grow to more between garbage collections than etcd's do: less processor "+
			"time, more memory. Unless a system's name says otherwise one member holds the data, and no write waits for others.")
	}
	if started && len(external) > 0 {
		all = append(all, "A system that ran already may have had others' load, other data and other flags than those that were started. Throughputs of the two do "+
			"not compare, and there is no ratio of them.")
	}
	return all
}

// sharing says who shares this machine with the clients; "" if nobody is known to.
func sharing(started bool, external []External) string {
	here, measured, others := started, started, false
	for _, e := range external {
		here = here || e.loopback() || len(e.PIDs) > 0
		measured = measured || len(e.PIDs) > 0
		others = others || !e.loopback() && len(e.PIDs) == 0
	}
	if !here {
		return ""
	}
	who := "Clients and servers"
	if others {
		who = "Clients, and the servers that are known to be on this machine,"
	}
	text := who + " share this machine's processors, so throughput and latency are those of a machine that is shared so: a server that needs less leaves " +
		"more to the clients."
	if len(external) == 0 {
		text += " Compare systems in the same round."
	}
	if measured {
		text += " Processor time per operation tells most."
	}
	return text
}

// network says what is between the clients and the servers.
func network(started bool, external []External) string {
	loopback, other, tunnel := started, false, ""
	for _, e := range external {
		loopback, other = loopback || e.loopback(), other || !e.loopback()
		if e.loopback() && len(e.PIDs) == 0 {
			tunnel = " A loopback address with a tunnel to elsewhere behind it is not known as one."
		}
	}
	switch {
	case !other:
		return "Everything goes over the loopback interface: no network adds latency, and none limits bandwidth." + tunnel
	case loopback:
		return "What goes to a loopback address has no network that adds latency, or limits bandwidth. What goes to others has it in its latency, and its " +
			"throughput may be the network's." + tunnel
	}
	return "Whatever network there is between the clients on this machine and the servers is part of all latencies, and may be what limits throughput; so may this machine."
}

// loopback tells whether all endpoints are addresses of this machine that no network is between.
func (e External) loopback() bool {
	for _, addr := range e.Endpoints {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return false
		}
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
			return false
		}
	}
	return true
}
