package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestGeneratedCertificateIsKept(t *testing.T) {
	f, log := newFolder(t), &logged{}
	s := Server{SelfSigned: &SelfSigned{Dir: filepath.Join(f.dir, "fixtures", "client"), Hosts: []string{"127.0.0.1:2379", "localhost:2379", "[::1]:1", "/run/sock", ":80"}, Years: 2}}
	load := func() *x509.Certificate {
		cfg, err := s.Load(NewSet(log.logger(), nil))
		must(t, err)
		return served(t, cfg, &tls.Config{InsecureSkipVerify: true})
	}
	made := load()
	for _, host := range []string{"127.0.0.1", "localhost", "::1"} {
		if err := made.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if len(made.DNSNames) != 1 || len(made.IPAddresses) != 2 {
		t.Errorf("it is for %v %v", made.DNSNames, made.IPAddresses)
	}
	if valid := made.NotAfter.Sub(made.NotBefore); valid.Round(time.Hour) != 2*365*24*time.Hour {
		t.Errorf("it is valid for %v", valid)
	}
	// A client can take it for its own authority.
	pool := x509.NewCertPool()
	pool.AddCert(made)
	cfg, err := s.Load(NewSet(log.logger(), nil))
	must(t, err)
	if _, err := shake(t, cfg, &tls.Config{RootCAs: pool, ServerName: "localhost"}); err != nil {
		t.Error(err)
	}
	if again := load(); !again.Equal(made) || log.count("made a self-signed certificate") != 1 {
		t.Errorf("made again: %s", log.buf.String())
	}
	info, err := os.Stat(filepath.Join(s.SelfSigned.Dir, "key.pem"))
	must(t, err)
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the key's file has mode %v", info.Mode())
	}
}

func TestGeneratedCertificateIsReplacedWhenItIsOfNoUse(t *testing.T) {
	expired := newAuthority(t).issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	for name, left := range map[string]pair{"expired": expired, "cut off": {cert: expired.cert[:100], key: expired.key}, "no key": {cert: expired.cert}} {
		f := newFolder(t)
		f.write("cert.pem", left.cert)
		must(t, os.Chmod(f.write("key.pem", left.key), 0o644))
		cfg, err := Server{SelfSigned: &SelfSigned{Dir: f.dir, Years: 1}}.Load(NewSet(quiet(), nil))
		must(t, err)
		if got := served(t, cfg, &tls.Config{InsecureSkipVerify: true}); time.Until(got.NotAfter) < 24*time.Hour {
			t.Errorf("%s: it expires %v", name, got.NotAfter)
		}
		info, err := os.Stat(f.path("key.pem"))
		must(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: the key's file has mode %v", name, info.Mode())
		}
	}
}

func TestGivenCertificateIsPreferredToAGeneratedOne(t *testing.T) {
	f, a, log := newFolder(t), newAuthority(t), &logged{}
	own := a.issue(nil)
	cert, key := f.writePair("server", own)
	flags := Server{CertFile: cert, KeyFile: key, SelfSigned: &SelfSigned{Dir: f.path("fixtures"), Years: 1}}
	cfg, err := flags.Load(NewSet(log.logger(), nil))
	must(t, err)
	flags.Warn(log.logger())
	if got := served(t, cfg, a.client(pair{})); got.SerialNumber.Cmp(own.serial) != 0 {
		t.Errorf("serial %v", got.SerialNumber)
	}
	if _, err := os.Stat(f.path("fixtures")); err == nil || log.count("--auto-tls") != 1 {
		t.Errorf("the log is %s", log.buf.String())
	}
}

// As at etcd's flags the two are not related, but etcd lets everybody in then.
func TestGeneratedCertificateStillDemandsThoseOfClients(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cfg, err := Server{TrustedCAFile: f.write("ca.crt", a.pem()), SelfSigned: &SelfSigned{Dir: f.path("fixtures"), Years: 1}}.Load(NewSet(quiet(), nil))
	must(t, err)
	client := a.client(pair{})
	client.InsecureSkipVerify = true
	if _, err := shake(t, cfg, client); err == nil {
		t.Error("accepted a client without a certificate")
	}
}
