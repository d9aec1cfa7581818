package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
	"weir/proxy"
)

// checkConfigCommand looks at the configuration with which a proxy would be started. It opens no port and no data, and asks nobody.
const checkConfigCommand = "check-config"

func checkConfig(args, environ []string, stdout io.Writer) error {
	o, err := readOptions(args, environ)
	switch {
	case errors.Is(err, process.ErrHelp):
		o.usage(stdout)
		return nil
	case o.flags == nil:
		return process.Findings{Wrong: err}.Report(stdout)
	case o.version:
		fmt.Fprint(stdout, process.VersionText("proxy"))
		return nil
	}
	refused, doubted := o.verify()
	doubts := o.doubts(time.Now())
	return process.Findings{
		Wrong:  o.flags.Locate(errors.Join(err, refused)),
		Doubts: o.flags.Locate(errors.Join(doubts.Err(), doubted)),
	}.Report(stdout)
}

// verify reads the files as serve does, and tells what that would refuse.
func (o *options) verify() (refused, doubt error) {
	var wrong, doubts process.Mistakes
	quiet := slog.New(slog.DiscardHandler)
	var certs certificates
	var err error
	certs.upstream, certs.name, err = o.upstream.Load(tlsfiles.NewSet(quiet, nil))
	wrong.Add(err)
	wrong.Add(o.listen.Verify())
	cfg := o.proxyConfig(certs, quiet)
	if o.embedded {
		refused, doubt := process.CheckDirectory("data-dir", o.dataDir)
		wrong.Add(refused)
		doubts.Add(doubt)
		if refused == nil {
			wrong.Add(o.coreConfig(nil, quiet).Check())
		}
	}
	wrong.Add(cfg.Check())
	return wrong.Err(), doubts.Err()
}

// staleLong is from when on nobody means to be that late.
const staleLong = time.Minute

// doubts tells what works and is probably not meant.
func (o *options) doubts(now time.Time) (d process.Mistakes) {
	for _, name := range o.unused {
		d.Addf("--%s has no effect with --endpoints: leave it out, or give --embedded", name)
	}
	for _, list := range []struct {
		flag     string
		prefixes prefixes
	}{{"feed", o.feeds}, {"cache-prefix", o.cachePrefixes}} {
		for _, p := range list.prefixes {
			if rest, ok := strings.CutPrefix(p, o.clients.namespace); ok && o.clients.namespace != "" {
				d.Addf("--%s=%s begins with --namespace=%s, which goes before it anyway: give %q, unless %s is meant", list.flag, p, o.clients.namespace, rest, o.clients.namespace+p)
			}
		}
	}
	if o.maxStaleness > staleLong {
		d.Addf("--max-staleness=%v has serializable reads answered with what may be that old", o.maxStaleness)
	}
	if t := o.dialKeepAliveTime; t > 0 && t < 10*time.Second {
		d.Addf("--dial-keepalive-time=%v counts as 10s: gRPC has no less", t)
	}
	o.doubtMemory(&d)
	o.doubtUpstream(&d, now)
	o.doubtListening(&d, now)
	return d
}

func (o *options) doubtMemory(d *process.Mistakes) {
	cached := int64(o.cacheBytes) + int64(o.watchHistoryBytes)
	if limit := o.memoryLimit; limit > 0 && cached > limit {
		d.Addf("--memory-limit=%d is less than --cache-bytes=%d and --watch-history-bytes=%d together", limit, o.cacheBytes, o.watchHistoryBytes)
	}
	if available := process.AvailableMemory(); available > 0 && cached > available {
		d.Addf("--cache-bytes=%d and --watch-history-bytes=%d together are more than the memory that there is, %d", o.cacheBytes, o.watchHistoryBytes, available)
	}
}

func (o *options) doubtUpstream(d *process.Mistakes, now time.Time) {
	for _, text := range o.upstream.Doubts(now) {
		d.Addf("%s", text)
	}
	for _, flag := range []string{"cacert", "cert", "insecure-skip-tls-verify"} {
		for _, e := range o.endpoints {
			if o.flags.Given(flag) && (strings.HasPrefix(e, "http://") || strings.HasPrefix(e, "unix:")) {
				d.Addf("--%s has no effect on %s in --endpoints, which is without TLS: write https:// or unixs://", flag, proxy.WithoutUser(e))
			}
		}
	}
}

func (o *options) doubtListening(d *process.Mistakes, now time.Time) {
	host, _, _ := net.SplitHostPort(o.listenAddr) // it has been checked
	o.doubtReach(d)
	advertised, err := url.Parse(o.advertiseClientURL)
	if err != nil || advertised.Host == "" {
		advertised = nil // as host:port, or not at all
	}
	if !o.listen.HasCertificate() {
		for _, flag := range []string{"listen-cipher-suites", "tls-min-version", "tls-max-version"} {
			if o.flags.Given(flag) {
				d.Addf("--%s has no effect: there is neither --cert-file nor --auto-tls", flag)
			}
		}
		if advertised != nil && isSecure(advertised) {
			d.Addf("--advertise-client-url=%s is with TLS, for which the proxy has no certificate: give --cert-file, unless something before it does that", advertised)
		}
	} else if advertised != nil && !isSecure(advertised) {
		d.Addf("--advertise-client-url=%s is without TLS, and the proxy takes nothing without: write https://", advertised)
	}
	if o.flags.Given("self-signed-cert-validity") && o.listen.SelfSigned == nil {
		d.Addf("--self-signed-cert-validity has no effect without --auto-tls")
	}
	for _, text := range o.listen.Doubts(now) {
		d.Addf("%s", text)
	}
	var misnamed tlsfiles.Doubts
	switch {
	case advertised != nil:
		misnamed = o.listen.Misnamed("advertise-client-url", []string{advertised.Hostname()})
	case !process.IsEveryAddress(host):
		misnamed = o.listen.Misnamed("listen-addr", []string{host})
	}
	for _, text := range misnamed {
		d.Addf("%s", text)
	}
}

// doubtReach is about who can reach the proxy, and who reads what it is sent. The start warns of it too.
func (o *options) doubtReach(d *process.Mistakes) {
	if host, _, err := net.SplitHostPort(o.listenAddr); err == nil && !o.listen.HasCertificate() && !process.IsLoopback(host) {
		d.Addf("--listen-addr=%s is without TLS at an address that other machines reach: who is on the way reads and changes all of it", o.listenAddr)
	}
	if u, err := url.Parse(o.advertiseClientURL); err == nil && u.Host != "" && process.IsEveryAddress(u.Hostname()) {
		d.Addf("--advertise-client-url=%s is not one that clients can use: say under which address they reach the proxy", u)
	}
}
