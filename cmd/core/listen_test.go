package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// opened parses a list for a flag and opens it.
func opened(t *testing.T, o listenOptions) listeners {
	t.Helper()
	l, err := o.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func clientURLs(t *testing.T, list string) listenOptions {
	t.Helper()
	urls, err := parseListenURLs("listen-client-urls", list)
	if err != nil {
		t.Fatal(err)
	}
	return listenOptions{clients: urls}
}

func TestSocketOfADeadProcessIsReplacedAndThatOfALivingOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	o := clientURLs(t, "unix://"+path)
	living := opened(t, o)
	if _, err := o.open(); err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Fatalf("beside a living process: %v", err)
	}
	living.close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestTLSAndPlaintextOfOneAddressShareAListener(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	l := opened(t, clientURLs(t, "http://"+addr+",https://"+addr))["listen-client-urls"]
	if len(l) != 1 || !l[0].secure || !l[0].plain {
		t.Errorf("got %+v", l)
	}
	l = opened(t, clientURLs(t, "http://127.0.0.1:0,https://127.0.0.1:0"))["listen-client-urls"]
	if len(l) != 2 || l[0].secure == l[1].secure || l[0].plain == l[1].plain {
		t.Errorf("two ports of the system's choice: got %+v", l)
	}
}

func TestAPortIsSharedOnlyIfBothWantThat(t *testing.T) {
	first := clientURLs(t, "http://127.0.0.1:0")
	first.reusePort = true
	addr := opened(t, first)["listen-client-urls"][0].Addr().String()
	second := clientURLs(t, "http://"+addr)
	if _, err := second.open(); err == nil || !strings.Contains(err.Error(), "stop the process that listens there") {
		t.Errorf("without --socket-reuse-port: %v", err)
	}
	second.reusePort = true
	opened(t, second)
}
