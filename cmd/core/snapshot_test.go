package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weir/core"
)

func TestSnapshotCommandsThatCannotBeMeantAreRefusedInOneLine(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("short.db", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("empty.db", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"":                            "say restore or status",
		"save x":                      "unknown command core snapshot save",
		"restore":                     "exactly one file, and 0",
		"status a b":                  "exactly one file, and 2",
		"restore --nonsense x":        "unknown flag --nonsense",
		"restore missing.db":          "no such file",
		"restore short.db":            "too short",
		"restore x --name=":           "--name must not be empty",
		"restore x --bump-revision=5": "give both or none",
		"restore x --mark-compacted":  "give both or none",
		"restore x --bump-revision=-1 --mark-compacted":   "--bump-revision",
		"restore x --bump-revision=1e9 --mark-compacted":  "--bump-revision",
		"restore x --initial-cluster=m1":                  "malformed entry",
		"restore x --initial-cluster=a=http://h:1":        `no member of the name "default"`,
		"restore x --initial-advertise-peer-urls=nothing": "--initial-advertise-peer-urls",
		"status missing.db":                               "no such file",
		"status .":                                        "is not a file",
		"status short.db":                                 "short.db",
		"status empty.db":                                 "empty.db is empty: it is no snapshot",
		"status short.db -w protobuf":                     "use one of",
		"status short.db --write-out=xml":                 "use one of",
	} {
		var out strings.Builder
		err := runSnapshot(strings.Fields(args), &out)
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("core snapshot %s: %v, want %q; it printed %q", args, err, want, out.String())
		}
	}
	left, err := filepath.Glob("*")
	if err != nil || len(left) != 2 {
		t.Errorf("there is %v, %v", left, err)
	}
}

func TestSnapshotCommandsHaveHelp(t *testing.T) {
	for args, want := range map[string]string{
		"--help":         "core snapshot restore FILE",
		"restore --help": "--bump-revision",
		"status -h":      "--write-out",
	} {
		var out strings.Builder
		if err := runSnapshot(strings.Fields(args), &out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("core snapshot %s: %v, %s", args, err, out.String())
		}
	}
}

func TestARestoredSnapshotHasFlagsBeforeAndBehindItsName(t *testing.T) {
	t.Chdir(t.TempDir())
	n, err := core.Open(core.Config{DataDir: "from"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	err = run([]string{"snapshot", "restore", "--skip-hash-check", filepath.Join("from", "member", "store.db"), "--name", "m1"}, []string{"ETCD_NAME=other", "ETCD_DATA_DIR=other"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("m1.weir", "member", "store.db")); err != nil {
		t.Error(err)
	}
}

func TestTheStatusOfASnapshotIsWrittenAsEtcdutlWritesIt(t *testing.T) {
	s := core.SnapshotStatus{Hash: 0xcf0b17e5, Revision: 6, Keys: 3, Size: 20480, Version: "3.7.0"}
	for form, want := range map[string]string{
		"simple": "cf0b17e5, 6, 3, 20 kB, 3.7.0\n",
		"json":   `{"hash":3473610725,"revision":6,"totalKey":3,"totalSize":20480,"version":"3.7.0"}` + "\n",
		"fields": "\"Hash\" : 3473610725\n\"Revision\" : 6\n\"Keys\" : 3\n\"Size\" : 20480\n\"Version\" : 3.7.0\n",
		"table": `
┌──────────┬──────────┬────────────┬────────────┬─────────┐
│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├──────────┼──────────┼────────────┼────────────┼─────────┤
│ cf0b17e5 │        6 │          3 │      20 kB │   3.7.0 │
└──────────┴──────────┴────────────┴────────────┴─────────┘
`[1:],
	} {
		var out strings.Builder
		if err := writeStatus(&out, form, s); err != nil || out.String() != want {
			t.Errorf("%s: %v\n%s", form, err, out.String())
		}
	}
	for size, want := range map[int64]string{
		0: "0 B", 9: "9 B", 10: "10 B", 999: "999 B", 1000: "1.0 kB", 16384: "16 kB", 1_250_000: "1.3 MB", 999_949: "1000 kB", 2 << 30: "2.1 GB", 1 << 62: "4.6 EB",
	} {
		if got := readableSize(size); got != want {
			t.Errorf("%d bytes: %q, want %q", size, got, want)
		}
	}
}
