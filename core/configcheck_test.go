package core

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/core/wal"
)

func TestCheckTellsAllThatOpenWouldRefuseAndTouchesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	others := []InitialMember{{"a", []string{"http://a:1"}}, {"b", []string{"http://b:1"}}}
	for _, c := range []struct {
		cfg  Config
		want []string
	}{
		{Config{DataDir: dir}, nil},
		{Config{DataDir: dir, Name: "a", InitialCluster: others}, nil},
		{Config{DataDir: dir, Name: "c", InitialCluster: others}, []string{`no member of the name "c"`}},
		{Config{}, []string{"set --data-dir"}},
	} {
		err := c.cfg.Check()
		if (err != nil) != (c.want != nil) {
			t.Errorf("got %v, want %q", err, c.want)
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("there is a data directory now")
	}
	if err := os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	wrong := Config{DataDir: dir, Name: "c", InitialCluster: others}
	wrong.Auth.Token = "cookie"
	err := wrong.Check()
	if err == nil || strings.Count(err.Error(), "\n") != 2 || !strings.Contains(err.Error(), "is etcd's") || !strings.Contains(err.Error(), "--auth-token") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "member", storeName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Config{DataDir: dir, Name: "c", InitialCluster: others}).Check(); err == nil || !strings.Contains(err.Error(), "no member of the name") {
		t.Errorf("what a start left that made no log counts as a member: %v", err)
	}
	log, err := wal.Create(filepath.Join(dir, "member", "wal"), []byte("m"), wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := (Config{DataDir: dir, Name: "c", InitialCluster: others}).Check(); err != nil {
		t.Errorf("a member with data is refused for the initial cluster: %v", err)
	}
}

func TestAStartThatIsRefusedForItsConfigurationLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for _, c := range []Config{
		{Name: "c", InitialCluster: []InitialMember{{"a", []string{"http://127.0.0.1:1"}}}},
		{Name: "a", InitialCluster: []InitialMember{{"a", []string{"http://127.0.0.1:1"}}}, PeerURLs: []string{"http://127.0.0.1:2"}},
		{JoinExisting: true},
	} {
		c.DataDir = dir
		n, err := Open(c)
		if err == nil {
			closeNode(t, n)
			t.Fatalf("%+v: it started", c)
		}
		if _, statErr := os.Stat(dir); statErr == nil {
			t.Fatalf("there is a data directory now, after %v", err)
		}
	}
}
