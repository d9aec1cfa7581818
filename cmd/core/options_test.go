package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDefaultsAreEtcds(t *testing.T) {
	o, err := parseOptions(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := o.core
	if c.Name != "default" || c.DataDir != "default.weir" || c.PeerURLs[0] != defaultPeerURL || c.ClientURLs[0] != defaultClientURL ||
		c.ClusterToken != "etcd-cluster" || c.CheckToken || c.JoinExisting || c.SnapshotCount != 10_000 || c.QuotaBytes != 0 ||
		o.progressInterval != 10*time.Minute || o.maxRequestBytes != 1572864 || o.maxTxnOps != 128 || c.HeartbeatInterval != 100*time.Millisecond || c.ElectionTimeout != time.Second {
		t.Errorf("got %+v", o)
	}
}

func TestEtcdsUsualCommandLineIsAccepted(t *testing.T) {
	o, err := parseOptions([]string{
		"--name", "m1", "--data-dir=/tmp/x",
		"--listen-client-urls", "http://127.0.0.1:1,unix:///tmp/s", "--advertise-client-urls", "http://127.0.0.1:1",
		"--listen-peer-urls", "http://127.0.0.1:2", "--initial-advertise-peer-urls", "http://127.0.0.1:2",
		"--initial-cluster", "m1=http://127.0.0.1:2", "--initial-cluster-state=new", "--initial-cluster-token=t",
		"--log-level=debug", "--log-outputs=stderr", "--snapshot-count=5", "--quota-backend-bytes=7",
		"--max-txn-ops=9", "--max-request-bytes=11",
	}, []string{"ETCD_ELECTION_TIMEOUT=2000"})
	if err != nil {
		t.Fatal(err)
	}
	if o.core.Name != "m1" || len(o.listenClientURLs) != 2 || !o.core.CheckToken || o.core.ElectionTimeout != 2*time.Second {
		t.Errorf("got %+v", o)
	}
}

func TestMistakesAreNamedInOneLine(t *testing.T) {
	for flag, want := range map[string]string{
		"--listen-client-urls=127.0.0.1:2379":                  "http://host:port",
		"--listen-client-urls=https://127.0.0.1:2379":          "no TLS yet",
		"--listen-client-urls=http://0.0.0.0:2379":             "--advertise-client-urls is required",
		"--listen-peer-urls=:2380":                             "--listen-peer-urls",
		"--initial-cluster=default=http://a:1,b=http://b:1":    "one member so far",
		"--initial-cluster=default=http://elsewhere:2380":      "make them equal",
		"--initial-cluster=default":                            "name=http://host:port",
		"--initial-cluster-state=old":                          "use new or existing",
		"--heartbeat-interval=0":                               "must be positive",
		"--watch-progress-notify-interval=-1s":                 "must not be negative",
		"--no-such-flag":                                       "--no-such-flag",
		"--max-txn-ops=-1":                                     "--max-txn-ops",
		"--advertise-client-urls=http://127.0.0.1:2379/a/path": "malformed URL",
	} {
		_, err := parseOptions([]string{flag}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want a line with %q", flag, err, want)
		}
	}
}

func TestSocketOfADeadProcessIsReplacedAndThatOfALivingOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	urls, err := parseURLs("listen-client-urls", "unix://"+path)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	living, err := listen(urls)
	if err != nil {
		t.Fatalf("after a crash: %v", err)
	}
	defer closeAll(living)
	if _, err := listen(urls); err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Fatalf("beside a living process: %v", err)
	}
}
