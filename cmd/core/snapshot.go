package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"weir/cmd/internal/process"
	"weir/core"
)

// `core snapshot` is `etcdutl snapshot` for weir: its flags, its output, its checks. As there the environment does not count, so that
// what is set for a member does not decide what is restored.

const snapshotCommand = "snapshot"

const snapshotUsage = `Usage:
  core snapshot restore FILE [--flag=value ...]   make the data directory of a member of a new cluster
  core snapshot status FILE [--flag=value ...]    tell what is in a snapshot

FILE is what etcdctl snapshot save has taken, from a weir core or an etcd up to 3.7.
See core snapshot restore --help.
`

func runSnapshot(args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("core snapshot: say restore or status, and which file; see core snapshot --help")
	}
	switch args[0] {
	case "restore":
		return snapshotRestore(args[1:], out)
	case "status":
		return snapshotStatus(args[1:], out)
	case "help", "-h", "-help", "--help":
		fmt.Fprint(out, snapshotUsage)
		return nil
	}
	return fmt.Errorf("unknown command core snapshot %s: use restore or status", args[0])
}

// parseSnapshotArgs reads the flags of a command and the one file that it is for. done is set when help was asked for, and given.
func parseSnapshotArgs(f *process.Flags, command string, args []string, out io.Writer) (file string, done bool, err error) {
	operands, err := f.ParseOperands(args)
	switch {
	case errors.Is(err, process.ErrHelp):
		fmt.Fprintf(out, "Usage: core snapshot %s FILE [--flag=value ...]\n\n", command)
		f.Describe(out)
		return "", true, nil
	case err != nil:
		return "", false, err
	case len(operands) != 1:
		return "", false, fmt.Errorf("core snapshot %s takes exactly one file, and %d are given", command, len(operands))
	}
	return operands[0], false, nil
}

func snapshotRestore(args []string, out io.Writer) error {
	var (
		c             clusterFlags
		skipHashCheck bool
		bump          uint64
		markCompacted bool
	)
	f := process.NewFlags("core snapshot restore", "")
	f.StringVar(&c.name, "name", "default", "Human-readable name for this member.")
	f.StringVar(&c.dataDir, "data-dir", "", "Path to the data directory, which must be empty or not exist. Default is ${name}.weir.")
	f.StringVar(&c.walDir, "wal-dir", "", "Path to the directory of the log. Default is member/wal in the data directory.")
	f.StringVar(&c.advertisePeer, "initial-advertise-peer-urls", defaultPeerURL, "List of this member's peer URLs.")
	f.StringVar(&c.initialCluster, "initial-cluster", "", "Members of the cluster, name=url,name=url: the same for all of them. Default is this member alone.")
	f.StringVar(&c.clusterToken, "initial-cluster-token", "etcd-cluster", "Token of the cluster.")
	f.BoolVar(&skipHashCheck, "skip-hash-check", false, "Take a file without a checksum, or with a wrong one: needed for a copy of a store's file.")
	f.Uint64Var(&bump, "bump-revision", 0, "By how much to raise the latest revision, so that for clients it has never gone back.")
	f.BoolVar(&markCompacted, "mark-compacted", false, "Compact at the latest revision: required with --bump-revision, and not possible without.")
	f.Uint64("initial-memory-map-size", 0, "")
	f.NoEffect("initial-memory-map-size", "as much is mapped as the file needs")
	file, done, err := parseSnapshotArgs(f, "restore", args, out)
	if err != nil || done {
		return err
	}
	switch {
	case c.name == "":
		return errors.New("--name must not be empty")
	case (bump > 0) != markCompacted:
		return errors.New("--bump-revision and --mark-compacted go together: give both or none")
	case bump > math.MaxInt64:
		return fmt.Errorf("--bump-revision=%d is too much", bump)
	}
	cfg := core.Config{Name: c.name, DataDir: c.dataDir, WALDir: c.walDir, ClusterToken: c.clusterToken}
	if cfg.DataDir == "" {
		cfg.DataDir = c.name + ".weir"
	}
	if cfg.PeerURLs, err = parseAdvertisedURLs("initial-advertise-peer-urls", c.advertisePeer); err != nil {
		return err
	}
	if cfg.InitialCluster, err = c.parseInitialCluster(); err != nil {
		return err
	}
	log, err := process.OpenLog(process.LogConfig{})
	if err != nil {
		return err
	}
	for flag, why := range f.Ineffective() {
		log.Warn("flag has no effect", "flag", flag, "why", why)
	}
	cfg.Logger = log.Logger
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err = core.Restore(ctx, cfg, core.SavedSnapshot{Path: file, SkipHashCheck: skipHashCheck, BumpRevision: int64(bump)})
	return errors.Join(err, log.Close())
}

func snapshotStatus(args []string, out io.Writer) error {
	f := process.NewFlags("core snapshot status", "")
	var form string
	f.StringVar(&form, "write-out", "simple", "Form of the output: simple, json, table or fields.")
	f.StringVar(&form, "w", "simple", "")
	file, done, err := parseSnapshotArgs(f, "status", args, out)
	if err != nil || done {
		return err
	}
	if err := oneOf("write-out", form, "simple", "json", "table", "fields"); err != nil {
		return err
	}
	// A store without a byte would be opened as a new one, and what is told of that would be about a file that cannot be written.
	if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		return fmt.Errorf("%s is empty: it is no snapshot", file)
	}
	s, err := core.SavedSnapshot{Path: file}.Status()
	if err != nil {
		return err
	}
	return writeStatus(out, form, s)
}

// writeStatus writes a status as etcdutl does.
func writeStatus(w io.Writer, form string, s core.SnapshotStatus) error {
	row := []string{fmt.Sprintf("%x", s.Hash), fmt.Sprint(s.Revision), fmt.Sprint(s.Keys), readableSize(s.Size), s.Version}
	text := strings.Join(row, ", ") + "\n"
	switch form {
	case "json":
		b, err := json.Marshal(struct {
			Hash      uint32 `json:"hash"`
			Revision  int64  `json:"revision"`
			TotalKey  int    `json:"totalKey"`
			TotalSize int64  `json:"totalSize"`
			Version   string `json:"version"`
		}{s.Hash, s.Revision, s.Keys, s.Size, s.Version})
		if err != nil {
			return err
		}
		text = string(b) + "\n"
	case "fields":
		text = fmt.Sprintf("\"Hash\" : %d\n\"Revision\" : %d\n\"Keys\" : %d\n\"Size\" : %d\n\"Version\" : %s\n", s.Hash, s.Revision, s.Keys, s.Size, s.Version)
	case "table":
		text = table([]string{"HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"}, row)
	}
	_, err := io.WriteString(w, text)
	return err
}

// table draws a header and one row.
func table(header, row []string) string {
	var top, names, middle, values, bottom strings.Builder
	for i := range header {
		width := max(utf8.RuneCountInString(header[i]), utf8.RuneCountInString(row[i]))
		line := strings.Repeat("─", width+2)
		for b, join := range map[*strings.Builder]string{&top: "┌┬", &middle: "├┼", &bottom: "└┴"} {
			corners := []rune(join)
			b.WriteString(string(corners[min(i, 1)]) + line)
		}
		room := width - utf8.RuneCountInString(header[i])
		names.WriteString("│ " + strings.Repeat(" ", room/2) + header[i] + strings.Repeat(" ", room-room/2) + " ")
		fmt.Fprintf(&values, "│ %*s ", width, row[i])
	}
	return top.String() + "┐\n" + names.String() + "│\n" + middle.String() + "┤\n" + values.String() + "│\n" + bottom.String() + "┘\n"
}

// readableSize writes a number of bytes in units of a thousand, with two digits, as etcdutl does.
func readableSize(bytes int64) string {
	if bytes < 10 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes), 0
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	for ; value >= 1000; value /= 1000 {
		unit++
	}
	value = math.Floor(value*10+0.5) / 10
	if value < 10 {
		return fmt.Sprintf("%.1f %s", value, units[unit])
	}
	return fmt.Sprintf("%.0f %s", value, units[unit])
}
