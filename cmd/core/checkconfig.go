package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
)

// checkConfigCommand looks at the configuration with which a member would be started. It opens no port and no data, and asks
// nobody; where the log is to go to journald, it opens that socket and sends nothing.
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
		fmt.Fprint(stdout, process.VersionText("core"))
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
	for _, list := range o.listen.byFlag() {
		if slices.ContainsFunc(list.urls, isSecure) {
			wrong.Add(o.certificateFiles(list.flag).Verify())
		}
	}
	_, err := o.peerTLS.Dial(tlsfiles.NewSet(quiet, nil))
	wrong.Add(err)
	for _, dir := range []struct{ flag, path string }{{"data-dir", o.core.DataDir}, {"wal-dir", o.core.WALDir}} {
		if dir.path != "" {
			refused, doubt := process.CheckDirectory(dir.flag, dir.path)
			wrong.Add(refused)
			doubts.Add(doubt)
		}
	}
	wrong.Add(o.log.CheckOutputs())
	cfg := o.core
	cfg.Logger = quiet
	wrong.Add(cfg.Check())
	return wrong.Err(), doubts.Err()
}

// doubts tells what works and is probably not meant.
func (o *options) doubts(now time.Time) (d process.Mistakes) {
	for _, written := range o.ignored {
		d.Addf("%s is not looked at: with a configuration file nothing else counts", written)
	}
	for _, variable := range o.unknownVariables {
		d.Addf("environment variable %s names no flag", variable)
	}
	for _, flag := range slices.Sorted(maps.Keys(o.ineffective)) {
		d.Addf("--%s has no effect: %s", flag, o.ineffective[flag])
	}
	if available := process.AvailableMemory(); available > 0 && o.core.QuotaBytes > available {
		d.Addf("--quota-backend-bytes=%d is more than the memory that there is, %d: a store that does not fit is slow", o.core.QuotaBytes, available)
	}
	if o.core.ForceNewCluster {
		d.Addf("--force-new-cluster is for one start, after which the others are no members any more: leave it out then")
	}
	if o.core.UnsafeNoFsync {
		d.Addf("--unsafe-no-fsync loses what was acknowledged when the machine loses power")
	}
	o.doubtMembers(&d)
	o.doubtReach(&d)
	o.doubtCertificates(&d, now)
	return d
}

// doubtReach is about who can reach this member, and who reads what it is sent. The start warns of it too.
func (o *options) doubtReach(d *process.Mistakes) {
	for _, list := range o.listen.byFlag() {
		for _, u := range list.urls {
			if list.flag != "listen-metrics-urls" && !isSecure(u) && !isSocket(u) && !process.IsLoopback(u.Hostname()) {
				d.Addf("--%s has %s without TLS at an address that other machines reach: who is on the way reads and changes all of it", list.flag, u)
			}
		}
	}
	for _, list := range []struct {
		flag string
		urls []string
		who  string
	}{{"advertise-client-urls", o.core.ClientURLs, "clients"}, {"initial-advertise-peer-urls", o.core.PeerURLs, "other members"}} {
		for _, s := range list.urls {
			if u, err := url.Parse(s); err == nil && !isSocket(u) && process.IsEveryAddress(u.Hostname()) {
				d.Addf("--%s has %s, which %s cannot use: say under which address they reach this member", list.flag, u, list.who)
			}
		}
	}
}

// doubtMembers compares URLs as they are written. The start looks hosts up before it refuses any.
func (o *options) doubtMembers(d *process.Mistakes) {
	for _, m := range o.core.InitialCluster {
		advertised := slices.Sorted(slices.Values(o.core.PeerURLs))
		if m.Name == o.core.Name && !slices.Equal(m.PeerURLs, advertised) {
			d.Addf("--initial-cluster has %s for this member, and --initial-advertise-peer-urls has %s: the start of a new member refuses that, unless they are the same hosts",
				strings.Join(m.PeerURLs, ","), strings.Join(advertised, ","))
		}
	}
}

func (o *options) doubtCertificates(d *process.Mistakes, now time.Time) {
	for _, side := range []struct {
		files        tlsfiles.Server
		listen       []flagURLs
		advertisedBy string
		advertised   []string
	}{
		{o.tls, o.listen.byFlag()[:3], "advertise-client-urls", o.core.ClientURLs},
		{o.peerTLS, o.listen.byFlag()[3:], "initial-advertise-peer-urls", o.core.PeerURLs},
	} {
		if len(side.listen[0].urls) == 0 {
			continue // they have been refused
		}
		secure, plain := false, false
		for _, list := range side.listen {
			secure = secure || slices.ContainsFunc(list.urls, isSecure)
			plain = plain || slices.ContainsFunc(list.urls, func(u *url.URL) bool { return !isSecure(u) })
			for _, text := range unusedCertificates(side.files, list) {
				d.Addf("%s", text)
			}
		}
		var hosts []string
		for _, s := range side.advertised {
			u, err := url.Parse(s)
			if err != nil {
				continue
			}
			switch {
			case isSecure(u) && !secure:
				d.Addf("--%s has %s with TLS, and --%s has no URL with it: write http://, or https:// there", side.advertisedBy, u, side.listen[0].flag)
			case !isSecure(u) && !plain:
				d.Addf("--%s has %s without TLS, and --%s has only URLs with it: write https://", side.advertisedBy, u, side.listen[0].flag)
			case isSecure(u) && !isSocket(u):
				hosts = append(hosts, u.Hostname())
			}
		}
		if secure {
			for _, text := range slices.Concat(side.files.Doubts(now), side.files.Misnamed(side.advertisedBy, hosts)) {
				d.Addf("%s", text)
			}
		}
	}
}

// unusedCertificates says of the URLs of a flag without TLS that the certificates that are given are not used there.
func unusedCertificates(files tlsfiles.Server, list flagURLs) (doubts []string) {
	for _, u := range list.urls {
		if !isSecure(u) && (files.HasCertificate() || files.AsksClients()) {
			doubts = append(doubts, fmt.Sprintf("certificates are given, and at %s in --%s they are not used: write https:// or unixs:// to use them", u, list.flag))
		}
	}
	return doubts
}
