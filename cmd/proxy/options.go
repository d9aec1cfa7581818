package main

import (
	"errors"
	"io"
	"log/slog"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
	"weir/proxy"
)

// envPrefix is that of the environment variables, without the last underscore.
const envPrefix = "WEIR_PROXY"

// options is the command line, checked.
type options struct {
	embedded           bool
	dataDir            string // of the embedded core, and of a generated certificate
	advertiseClientURL string // by the embedded core, or instead of the cluster's members

	endpoints            []string
	upstream             tlsfiles.Client
	dialKeepAliveTime    time.Duration
	dialKeepAliveTimeout time.Duration
	permitWithoutStream  bool
	maxSendBytes         int
	maxRecvBytes         int

	discovery discoveryOptions
	clients   clientOptions

	feeds             prefixes
	watchHistoryBytes int

	cachePrefixes     prefixes
	cacheBytes        int
	maxStaleness      time.Duration
	readCheckInterval time.Duration
	maxRangeKeys      int64
	maxRangeBytes     int64

	listenAddr           string
	metricsURLs          []*url.URL
	listen               tlsfiles.Server
	maxConcurrentStreams uint
	keepAliveMinTime     time.Duration
	keepAliveInterval    time.Duration
	keepAliveTimeout     time.Duration
	progressInterval     time.Duration
	slowClientTimeout    time.Duration
	enablePprof          bool
	statusPage           bool
	drain                process.Drain

	version     bool
	logLevel    string
	memoryLimit int64

	// unused are flags that were given and change nothing: those of the embedded core without one. With etcd's proxy
	// they change nothing either, unless it registers itself or makes certificates.
	unused []string

	configFile string // "" is none
	flags      *process.Flags
	usage      func(io.Writer)
}

// notThereYet are the flags of `etcd grpc-proxy start` whose work is not done. They are refused, because ignoring
// them would be to serve something else than was asked for. A value that asks for nothing is accepted.
var notThereYet = []struct{ name, nothing, usage string }{
	{"experimental-enable-grpc-logging", "false", "Log all requests and responses."},
	{"experimental-leasing-prefix", "", "Leasing metadata prefix for disconnected linearized reads."},
	{"experimental-serializable-ordering", "false", "Serializable reads with increasing revisions across endpoints."},
}

// upstreamOnly are the flags that only mean something with --endpoints.
var upstreamOnly = []string{
	"cacert", "cert", "dial-keepalive-time", "dial-keepalive-timeout", "insecure-skip-tls-verify", "key", "permit-without-stream",
}

// isOurs tells whether an environment variable may be meant for weir, misspelt or not.
func isOurs(variable string) bool { return strings.HasPrefix(variable, "WEIR") }

func refuse(nothing string) func(string) error {
	return func(value string) error {
		if value == nothing || value == "0" && nothing == "0s" {
			return nil
		}
		return process.ErrNotThere
	}
}

// listFlags are those for which a file may have a list.
var listFlags = []string{"cache-prefix", "endpoints", "feed", "listen-cipher-suites", "metrics-addr"}

// parseOptions reads flags with the names and, but for an embedded core, the defaults of etcd's grpc-proxy: from the command line, from the
// environment, and from a file that one of them names, which it reads each time. Its error joins all that is wrong, and then the options
// are of no use but for the help.
func parseOptions(args, environ []string) (options, error) {
	o, err := readOptions(args, environ)
	if err != nil {
		return options{usage: o.usage}, err
	}
	return o, nil
}

// readOptions is parseOptions, but where only what is asked for is contradictory the options are there, with their flags.
func readOptions(args, environ []string) (options, error) {
	var (
		o         options
		endpoints string
		metrics   string
		suites    string
		autoTLS   bool
		validity  uint
		debug     bool
	)
	f := process.NewFlags("proxy", envPrefix)
	f.GroupAs(helpGroups)
	o.flags, o.usage = f, func(w io.Writer) { f.Usage(w, introduction) }
	f.StringVar(&o.configFile, "config-file", "", "YAML file whose keys are names of flags. What is given as a flag or as a variable counts more.")
	f.BoolVar(&o.embedded, "embedded", false, "Start a core of one member in this process and serve that. The default when there is no other flag.")
	f.StringVar(&o.dataDir, "data-dir", "default.weir", "Data directory of the embedded core. A proxy before --endpoints keeps no data but the certificate of --auto-tls, by default in default.proxy.")

	f.StringVar(&endpoints, "endpoints", "", "Comma separated endpoints of the cluster: http://, https://, unix:// or host:port.")
	f.StringVar(&o.upstream.CertFile, "cert", "", "Identify secure connections with the cluster using this TLS certificate file.")
	f.StringVar(&o.upstream.KeyFile, "key", "", "Identify secure connections with the cluster using this TLS key file.")
	f.StringVar(&o.upstream.CAFile, "cacert", "", "Verify certificates of the cluster using this CA bundle.")
	f.BoolVar(&o.upstream.SkipVerify, "insecure-skip-tls-verify", false, "Skip authentication of the cluster's certificates (CAUTION: for testing only).")
	f.DurationVar(&o.dialKeepAliveTime, "dial-keepalive-time", 10*time.Second, "Time without traffic after which a connection to the cluster is pinged (0 to disable).")
	f.DurationVar(&o.dialKeepAliveTimeout, "dial-keepalive-timeout", 5*time.Second, "Time to wait for the answer to such a ping.")
	f.BoolVar(&o.permitWithoutStream, "permit-without-stream", false, "Ping connections to the cluster without active RPCs too.")
	f.IntVar(&o.maxSendBytes, "max-send-bytes", 3<<19, "Limit in bytes of a request to the cluster. As at etcd, 512 KiB more are passed on, for the cluster to refuse.")
	f.IntVar(&o.maxRecvBytes, "max-recv-bytes", math.MaxInt32, "Limit in bytes of an answer from the cluster.")

	o.discovery.addFlags(f)
	o.clients.addFlags(f)
	f.Func("feed", "Prefix of keys that are always watched with one watch of the cluster, which serves all watches below it; \"\" is every key. Comma separated, and may be given several times; a prefix with a comma cannot be given. Other watches are put together as they come.", o.feeds.add)
	f.IntVar(&o.watchHistoryBytes, "watch-history-bytes", 64<<20, "Limit in bytes of the recent events that all feeds together keep in memory, for watches that start in the past or fall behind. 0 keeps nothing: all that such watches need is read from the cluster.")
	f.Func("cache-prefix", "Prefix of keys that are always kept in memory, as far as --cache-bytes allows; \"\" is every key. Given like --feed. Other ranges are kept when they are read often enough.", o.cachePrefixes.add)
	f.IntVar(&o.cacheBytes, "cache-bytes", 256<<20, "Limit in bytes of the keys and answers kept in memory to answer reads from. 0 keeps nothing: all reads are forwarded.")
	f.DurationVar(&o.maxStaleness, "max-staleness", 2*time.Second, "Limit of the age of what a serializable read is answered with, while the cluster can be asked. 0 asks for every one, unless others ask at the same time.")
	f.DurationVar(&o.readCheckInterval, "read-check-interval", 0, "Time between two questions to the cluster for linearizable reads, for which they wait and which they share, at most 1s. 0 asks as soon as the one before is answered.")
	f.Int64Var(&o.maxRangeKeys, "max-range-keys", 0, "Limit of the keys in one answer; a range with more is refused, unless it is read with a limit or as a stream (0 to disable).")
	f.Int64Var(&o.maxRangeBytes, "max-range-bytes", 0, "Limit of the bytes in one answer, likewise (0 to disable).")
	f.DurationVar(&o.progressInterval, "watch-progress-notify-interval", 10*time.Minute, "Duration of periodic watch progress notifications, at least 100ms (0 is 10m).")
	f.DurationVar(&o.slowClientTimeout, "slow-client-timeout", 0, "End a watch stream whose client has taken nothing for this long while something waits for it, at least 1s (0 to disable).")

	f.StringVar(&o.listenAddr, "listen-addr", "127.0.0.1:23790", "Address to listen on. With an embedded core the default is 127.0.0.1:2379.")
	f.StringVar(&metrics, "metrics-addr", "", "Comma separated URLs to serve the HTTP endpoints on additionally: http://host:port, https://host:port.")
	f.StringVar(&o.advertiseClientURL, "advertise-client-url", "", "URL under which clients reach the embedded core; default is where it listens. Before a cluster it is what clients who ask for the members are answered with; by default they are told the members, each under the URL by which they have reached the proxy.")
	f.StringVar(&o.listen.CertFile, "cert-file", "", "Identify secure connections to the proxy using this TLS certificate file.")
	f.StringVar(&o.listen.KeyFile, "key-file", "", "Identify secure connections to the proxy using this TLS key file.")
	f.StringVar(&o.listen.TrustedCAFile, "trusted-ca-file", "", "Demand client certificates and verify them using this CA bundle.")
	f.StringVar(&o.listen.CRLFile, "client-crl-file", "", "Refuse the client certificates in this certificate revocation list, PEM or DER.")
	f.BoolVar(&autoTLS, "auto-tls", false, "Identify secure connections to the proxy using a generated certificate, if there is no --cert-file.")
	f.UintVar(&validity, "self-signed-cert-validity", 1, "Validity of a generated certificate in years.")
	f.StringVar(&suites, "listen-cipher-suites", "", "Comma separated TLS cipher suites (empty leaves it to Go).")
	f.StringVar(&o.listen.MinVersion, "tls-min-version", "TLS1.2", "Minimum TLS version: TLS1.2, TLS1.3.")
	f.StringVar(&o.listen.MaxVersion, "tls-max-version", "", "Maximum TLS version: TLS1.2, TLS1.3 (empty leaves it to Go).")
	f.UintVar(&o.maxConcurrentStreams, "max-concurrent-streams", math.MaxUint32, "Maximum concurrent RPCs on one client connection.")
	f.DurationVar(&o.keepAliveMinTime, "grpc-keepalive-min-time", 5*time.Second, "Minimum time between a client's pings.")
	f.DurationVar(&o.keepAliveInterval, "grpc-keepalive-interval", 2*time.Hour, "Time without traffic after which a client is pinged (0 to disable).")
	f.DurationVar(&o.keepAliveTimeout, "grpc-keepalive-timeout", 20*time.Second, "Time to wait for the answer to such a ping (0 is 20s).")
	f.BoolVar(&o.enablePprof, "enable-pprof", false, "Serve runtime profiling data at /debug/pprof/.")

	f.BoolVar(&o.statusPage, "status-page", true, "Serve a page at /weir/ that shows what the proxy does, and the same as JSON. Where authentication is on it is for users with the role root.")
	o.drain.AddFlags(f)

	f.BoolVar(&o.version, "version", false, "Print the version and exit.")
	f.BoolVar(&debug, "debug", false, "The same as --log-level=debug.")
	f.StringVar(&o.logLevel, "log-level", "info", "Log level: debug, info, warn, error, panic, or fatal.")
	f.Int64Var(&o.memoryLimit, "memory-limit", 0, "Memory in bytes that Go's memory manager tries to stay below. 0 is GOMEMLIMIT, else three quarters of what the process may use.")
	for _, n := range notThereYet {
		if n.nothing == "false" {
			f.BoolFunc(n.name, n.usage+" Not there yet.", refuse(n.nothing))
		} else {
			f.Func(n.name, n.usage+" Not there yet.", refuse(n.nothing))
		}
	}
	nothing := len(args) == 0 && !slices.ContainsFunc(environ, isOurs)
	// What people type who come from etcd.
	for len(args) > 0 && (args[0] == "grpc-proxy" || args[0] == "start") {
		args = args[1:]
	}
	f.Suspect("WEIR")
	f.Lists(listFlags...)
	f.Secrets("user", "password")
	err := f.Parse(args, environ)
	if err == nil && o.version {
		return o, nil
	}
	if o.configFile != "" && !errors.Is(err, process.ErrHelp) {
		err = errors.Join(err, f.ReadFile(o.configFile, process.FileForm{}))
	}
	if err != nil {
		return options{usage: o.usage}, err
	}

	var wrong process.Mistakes
	// A misspelt or emptied variable must not become an empty, writable store: only nothing at all means embedded.
	o.embedded = o.embedded || nothing
	if o.embedded {
		if endpoints != "" {
			wrong.Addf("--embedded and --endpoints exclude each other: leave one out")
		}
		if !f.Given("listen-addr") {
			o.listenAddr = "127.0.0.1:2379"
		}
		for _, name := range slices.Concat(upstreamOnly, discoveryFlags) {
			if f.Given(name) {
				wrong.Addf("--%s is for --endpoints, and has no effect with an embedded core: leave it out", name)
			}
		}
	} else if len(splitList(endpoints)) == 0 && o.discovery.srv == "" {
		wrong.Addf("--endpoints is missing: give the cluster's, as in --endpoints=http://10.0.0.1:2379, or --discovery-srv, or --embedded for a store in this process")
	} else if f.Given("data-dir") && !autoTLS {
		o.unused = append(o.unused, "data-dir")
	}
	o.listen.Side, o.listen.CipherSuites = tlsfiles.ProxySide, splitList(suites)
	if autoTLS {
		if !o.embedded && !f.Given("data-dir") {
			o.dataDir = "default.proxy"
		}
		o.listen.SelfSigned = &tlsfiles.SelfSigned{Dir: o.selfSignedDir(), Hosts: []string{o.listenAddr}, Years: validity}
	}
	o.endpoints = splitList(endpoints)
	if debug && !(f.FromFile("debug") && f.Given("log-level") && !f.FromFile("log-level")) { // what is nearer counts more
		o.logLevel = "debug"
	}
	wrong.Add(o.check(metrics))
	return o, f.Locate(wrong.Err())
}

// memberListURL is what the proxy answers MemberList with; "" is what upstream says, which an embedded core is told the URL for.
func (o *options) memberListURL() string {
	if o.embedded {
		return ""
	}
	return o.advertiseClientURL
}

// proxyConfig is what the options ask of the proxy, but for an embedded core.
func (o *options) proxyConfig(certs certificates, logger *slog.Logger) proxy.Config {
	cfg := proxy.Config{
		Endpoints:           o.endpoints,
		TLS:                 certs.upstream,
		KeepAliveTime:       o.dialKeepAliveTime,
		KeepAliveTimeout:    o.dialKeepAliveTimeout,
		PermitWithoutStream: o.permitWithoutStream,
		MaxRecvBytes:        o.maxRecvBytes,
		User:                o.clients.user,
		Password:            o.clients.password,
		ClientCertificate:   o.upstream.CertFile != "",
		CommonName:          certs.name,
		Namespace:           o.clients.namespace,
		Reloads:             o.configFile != "",
		TenantsFile:         o.clients.tenantsFile,
		Limits:              o.clients.limits,
		MaxUpstreamCalls:    o.clients.upstreamCalls,
		Feeds:               o.clients.within(o.feeds),
		WatchHistoryBytes:   o.watchHistoryBytes,
		CachePrefixes:       o.clients.within(o.cachePrefixes),
		CacheBytes:          o.cacheBytes,
		MaxStaleness:        o.maxStaleness,
		ReadCheckInterval:   o.readCheckInterval,
		MaxRangeKeys:        o.maxRangeKeys,
		MaxRangeBytes:       o.maxRangeBytes,
		Logger:              logger,
	}
	o.discovery.configure(&cfg, o.advertiseClientURL)
	return cfg
}

// isURL tells whether s is a URL of a host and port and nothing more.
func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Port() != "" && u.Scheme+"://"+u.Host == s
}

func splitList(s string) []string {
	var list []string
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			list = append(list, e)
		}
	}
	return list
}
