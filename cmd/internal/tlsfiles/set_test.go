package tlsfiles

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"
)

// told is what a Set has noted.
type told struct{ changed, refused int }

func (s *told) note(err error) {
	if err == nil {
		s.changed++
	} else {
		s.refused++
	}
}

func wantLook(t *testing.T, set *Set, forced, changed bool, refused string) {
	t.Helper()
	did, err := set.Look(forced)
	if did != changed || (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
		t.Errorf("changed %v, %v; want %v, %q", did, err, changed, refused)
	}
}

func TestLookFindsWhatNoStampShowsAndSaysEachThingOnce(t *testing.T) {
	f, log, noted := newFolder(t), &logged{}, &told{}
	set := NewSet(log.logger(), noted.note)
	path := f.write("a", "ok1")
	before, err := os.Stat(path)
	must(t, err)
	s, err := newSource(set, func(c [][]byte) (string, error) {
		if c[0][0] != 'o' {
			return "", os.ErrInvalid
		}
		return string(c[0]), nil
	}, file{"a-file", path})
	must(t, err)
	wantLook(t, set, false, false, "")
	wantLook(t, set, true, false, "") // what is the same is no change, however it is looked at

	must(t, os.WriteFile(path, []byte("ok2"), 0o600)) // the same file, of the same size
	must(t, os.Chtimes(path, before.ModTime(), before.ModTime()))
	wantLook(t, set, false, true, "")
	if got := s.current(); got != "ok2" {
		t.Errorf("got %s", got)
	}

	f.write("a", "bad")
	for range 3 {
		wantLook(t, set, false, false, "invalid argument")
	}
	if n := log.count(unusable); n != 1 || noted.refused != 1 || s.current() != "ok2" {
		t.Errorf("said %d times, noted %d: %s", n, noted.refused, log.buf.String())
	}
	wantLook(t, set, true, false, "invalid argument")
	if n := log.count(unusable); n != 2 {
		t.Errorf("who forces a look was told %d times", n)
	}
	f.write("a", "ok2") // what it was
	_, _ = set.Look(false)
	f.write("a", "ok3")
	wantLook(t, set, false, true, "")
	if log.count("a-file="+path) == 0 {
		t.Errorf("the file is not named: %s", log.buf.String())
	}
}

func TestPeersAreMetWithWhatTheFilesHoldNow(t *testing.T) {
	f, first, second := newFolder(t), newAuthority(t), newAuthority(t)
	cert, key := f.writePair("peer", first.issue(nil))
	s := Server{Side: PeerSide, CertFile: cert, KeyFile: key, TrustedCAFile: f.write("ca.crt", first.pem()), ClientCertAuth: true}
	set := NewSet(quiet(), nil)
	server, err := s.Load(set)
	must(t, err)
	dial, err := s.Dial(set)
	must(t, err)
	meet := func() error {
		_, err := connect(t, server, dial, "127.0.0.1")
		return err
	}
	must(t, meet())
	f.write("ca.crt", second.pem())
	f.writePair("peer", second.issue(nil))
	must(t, meet())
	f.write("ca.crt", "-----BEGIN CERTIFICATE-----\n")
	f.write("peer.crt", "")
	must(t, meet())
	if _, err := set.Look(false); err == nil || !strings.Contains(err.Error(), "not whole") {
		t.Errorf("half a bundle: %v", err)
	}
}

func TestHalfAChainIsRefused(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	own := a.issue(nil)
	chain := own.cert + a.pem()
	cert, key := f.write("own.crt", chain), f.write("own.key", own.key)
	cfg, err := Server{CertFile: cert, KeyFile: key}.Load(NewSet(quiet(), nil))
	must(t, err)
	f.write("own.crt", chain[:len(chain)-40])
	state, err := shake(t, cfg, &tls.Config{RootCAs: a.pool(), ServerName: "localhost"})
	must(t, err)
	if len(state.PeerCertificates) != 0 { // shake tells what the server saw
		t.Error("clients showed certificates")
	}
	if _, err := parsePair([][]byte{[]byte(chain[:len(chain)-40]), []byte(own.key)}); err == nil || !strings.Contains(err.Error(), "not whole") {
		t.Errorf("got %v", err)
	}
}
