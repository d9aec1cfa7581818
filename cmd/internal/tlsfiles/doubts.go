package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Doubts are what is accepted, and probably not meant, each a sentence that names its flags.
type Doubts []string

func (d *Doubts) add(format string, args ...any) { *d = append(*d, fmt.Sprintf(format, args...)) }

// expiresSoon is how long before its end a certificate should have been replaced: a week, but of one that is meant to be short a quarter
// of its life.
func expiresSoon(c *x509.Certificate) time.Duration {
	return min(7*24*time.Hour, c.NotAfter.Sub(c.NotBefore)/4)
}

// certificate looks at the certificate in a pair of files that can be loaded.
func (d *Doubts) certificate(cert, key file, now time.Time) {
	pair, err := tls.LoadX509KeyPair(cert.path, key.path)
	if err != nil {
		return
	}
	switch ends := pair.Leaf.NotAfter; {
	case now.After(ends):
		d.add("the certificate has expired, at %s, so others will refuse it: replace %s", ends.Format(time.RFC3339), cert)
	case now.Add(expiresSoon(pair.Leaf)).After(ends):
		d.add("the certificate expires soon, at %s: replace %s", ends.Format(time.RFC3339), cert)
	case now.Before(pair.Leaf.NotBefore):
		d.add("the certificate is not valid before %s, and until then others will refuse it: see %s", pair.Leaf.NotBefore.Format(time.RFC3339), cert)
	}
}

// Warn logs the Doubts about flags that Load has accepted. It is for all ports together.
func (s Server) Warn(logger *slog.Logger) {
	for _, doubt := range s.Doubts(time.Now()) {
		logger.Warn(doubt)
	}
}

// Doubts returns what is probably not meant with flags that Load accepts, as etcd does.
func (s Server) Doubts(now time.Time) (d Doubts) {
	flag := func(name string) string { return "--" + s.Side.flag(name) }
	var idle []string
	for _, given := range []struct {
		flag string
		is   bool
	}{
		{"client-cert-allowed-cn", len(s.AllowedCNs) > 0},
		{"client-cert-allowed-hostname", len(s.AllowedHostnames) > 0},
		{"client-crl-file", s.CRLFile != ""},
	} {
		if given.is {
			idle = append(idle, flag(given.flag))
		}
	}
	switch {
	case !s.AsksClients() && len(idle) > 0:
		d.add("flags keep nobody out, since clients are not asked for certificates: %v; give %s to ask for them", idle, flag("trusted-ca-file"))
	case s.ClientCertAuth && s.TrustedCAFile == "":
		d.add("clients with a certificate of any authority that this system trusts are let in by %s: give %s to name yours", flag("client-cert-auth"), flag("trusted-ca-file"))
	}
	if s.SelfSigned != nil && s.CertFile != "" {
		d.add("a certificate is given and none is made: leave out %s", flag("auto-tls"))
	}
	for _, pair := range [][2]file{
		{s.file("cert-file", s.CertFile), s.file("key-file", s.KeyFile)},
		{s.file("client-cert-file", s.ClientCertFile), s.file("client-key-file", s.ClientKeyFile)},
	} {
		if pair[0].path != "" {
			d.certificate(pair[0], pair[1], now)
		}
	}
	return d
}

// Misnamed returns, as Doubts, which of the hosts the certificate is not for: those under which others are told to call, by a flag.
func (s Server) Misnamed(flag string, hosts []string) (d Doubts) {
	pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		return nil
	}
	slices.Sort(hosts)
	for _, host := range slices.Compact(hosts) {
		if pair.Leaf.VerifyHostname(host) != nil {
			d.add("the certificate is not for %s, as which --%s has others call, who will refuse it: replace %s", host, flag, s.file("cert-file", s.CertFile))
		}
	}
	return d
}

// Doubts returns what is probably not meant with flags that Load accepts.
func (c Client) Doubts(now time.Time) (d Doubts) {
	switch {
	case c.SkipVerify && c.CAFile != "":
		d.add("--insecure-skip-tls-verify has anybody taken for the cluster, so --cacert says nothing: leave one out")
	case c.SkipVerify:
		d.add("--insecure-skip-tls-verify has anybody taken for the cluster: give --cacert instead")
	}
	if c.CertFile != "" {
		d.certificate(file{"cert", c.CertFile}, file{"key", c.KeyFile}, now)
	}
	return d
}

// Verify tells all that Load would refuse: it reads the files, but makes no certificate.
func (s Server) Verify() error {
	if err := s.checkAll(); err != nil || !s.HasCertificate() {
		return err
	}
	_, err := s.load(NewSet(slog.New(slog.DiscardHandler), nil))
	return err
}
