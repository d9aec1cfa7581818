// Package weir_test keeps the house in order: who may import whom, and that every package says what it is for.
package weir_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// floors says on which floor each package of the module stands. Imports go down only.
var floors = map[string]int{
	"weir/cmd/core":              3,
	"weir/cmd/proxy":             3,
	"weir/cmd/internal/process":  2,
	"weir/cmd/internal/tlsfiles": 2,
	"weir/cmd/internal/tracing":  2,
	"weir/core":                  2,
	"weir/core/coretest":         2,
	"weir/grpcapi":               2,
	"weir/proxy":                 2,
	"weir/proxy/access":          2,
	"weir/proxy/busiest":         2,
	"weir/proxy/fair":            2,
	"weir/proxy/feed":            2,
	"weir/proxy/reads":           2,
	"weir/proxy/tenants":         2,
	"weir/cache":                 1,
	"weir/coalesce":              1,
	"weir/core/auth":             1,
	"weir/core/consensus":        1,
	"weir/core/lease":            1,
	"weir/core/mvcc":             1,
	"weir/core/transport":        1,
	"weir/core/wal":              1,
	"weir/grpcapi/lockpb":        0,
	"weir/grpcapi/statuspage":    1,
	"weir/grpcapi/wire":          0,
	"weir/internal/bubble":       0,
	"weir/keyset":                0,
}

const (
	bubble   = "weir/internal/bubble"
	coretest = "weir/core/coretest"
)

// edge is one package importing another, by itself or only from its tests.
type edge struct {
	from, to string
	test     bool
}

// rules are checked in this order, and the first that an edge breaks is reported with its reason.
var rules = []struct {
	name   string
	reason string
	breaks func(edge) bool
}{
	{
		"nobody imports a command",
		"a command is flags and wiring; what somebody else needs of it belongs on a lower floor",
		func(e edge) bool { return floors[e.to] == 3 },
	},
	{
		"coretest is for tests",
		"it scripts network and clock; in a product they must be real",
		func(e edge) bool { return e.to == coretest && !e.test },
	},
	{
		"bubble is for tests",
		"it stops the clock of who uses it",
		func(e edge) bool { return e.to == bubble && !e.test },
	},
	{
		"only core looks into core",
		"core answers for its log, store and leases together; who reads one of them alone sees a state that never was",
		func(e edge) bool {
			return within(e.to, "weir/core") && e.to != "weir/core" && e.to != coretest && !within(e.from, "weir/core")
		},
	},
	{
		"raft and bbolt stay in core",
		"everything else is stateless; a proxy that kept data could lose it",
		func(e edge) bool {
			return (within(e.to, "go.etcd.io/raft/v3") || within(e.to, "go.etcd.io/bbolt")) && !within(e.from, "weir/core")
		},
	},
	{
		"etcd's server stays outside",
		"weir replaces it; the comparison with it lives in loadtest, which has its own go.mod",
		func(e edge) bool { return within(e.to, "go.etcd.io/etcd/server/v3") },
	},
	{
		"floor 0 imports nothing of weir",
		"every package handles wire's messages, so whatever it imported would be everywhere",
		func(e edge) bool { return inModule(e.to) && floors[e.from] == 0 },
	},
	{
		"floor 1 packages do not import each other",
		"each is one mechanism that is understood and tested alone; floor 2 puts them together",
		func(e edge) bool { return inModule(e.to) && floors[e.from] == 1 && floors[e.to] == 1 },
	},
	{
		"floor 2 packages do not import each other",
		"core and proxy are two backends of one grpcapi, which declares the interfaces that both satisfy; cmd joins them",
		func(e edge) bool {
			part := within(e.to, e.from) // of the importing package
			return inModule(e.to) && floors[e.from] == 2 && floors[e.to] == 2 && !part && e.from != coretest && e.to != coretest
		},
	},
	{
		"imports go down",
		"a part that knows who uses it cannot be used by anybody else",
		func(e edge) bool { return inModule(e.to) && floors[e.from] < floors[e.to] },
	},
}

func inModule(pkg string) bool { return within(pkg, "weir") }

// within tells whether pkg is root or below it.
func within(pkg, root string) bool { return pkg == root || strings.HasPrefix(pkg, root+"/") }

// broken returns the index in rules of the first rule that e breaks, or -1.
func broken(e edge) int {
	for i, r := range rules {
		if r.breaks(e) {
			return i
		}
	}
	return -1
}

func TestImportsGoDown(t *testing.T) {
	packages, edges := listModule(t)
	for _, p := range packages {
		if _, ok := floors[p]; !ok {
			t.Errorf("%s has no floor in house_test.go, and so could import anything", p)
		}
	}
	for p := range floors {
		if !slices.Contains(packages, p) {
			t.Errorf("%s has a floor in house_test.go and is not there", p)
		}
	}
	for _, e := range edges {
		if i := broken(e); i >= 0 {
			t.Errorf("%s imports %s (in a test: %v)\n\trule: %s\n\twhy:  %s", e.from, e.to, e.test, rules[i].name, rules[i].reason)
		}
	}
}

// listModule returns all packages of the module, and who imports whom.
func listModule(t *testing.T) (packages []string, edges []edge) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages, edges
		} else if err != nil {
			t.Fatalf("read the answer of go list: %v", err)
		}
		if p.ImportPath == "weir" {
			continue // this test
		}
		packages = append(packages, p.ImportPath)
		for _, to := range p.Imports {
			edges = append(edges, edge{p.ImportPath, to, false})
		}
		for _, to := range slices.Concat(p.TestImports, p.XTestImports) {
			if to != p.ImportPath { // an external test imports its package
				edges = append(edges, edge{p.ImportPath, to, true})
			}
		}
	}
}

// TestEachRuleFindsItsViolation: a rule that finds nothing in the tree may have nothing to find, or be unable to.
func TestEachRuleFindsItsViolation(t *testing.T) {
	unproven := map[string]bool{}
	for _, r := range rules {
		unproven[r.name] = true
	}
	for _, c := range []struct {
		edge
		want string // the rule that is broken
	}{
		{edge{from: "weir/cmd/proxy", to: "weir/cmd/core"}, "nobody imports a command"},
		{edge{from: "weir/core", to: coretest}, "coretest is for tests"},
		{edge{from: "weir/coalesce", to: bubble}, "bubble is for tests"},
		{edge{from: "weir/cmd/proxy", to: "weir/core/mvcc"}, "only core looks into core"},
		{edge{from: "weir/grpcapi", to: "weir/core/lease", test: true}, "only core looks into core"},
		{edge{from: "weir/proxy", to: "go.etcd.io/bbolt"}, "raft and bbolt stay in core"},
		{edge{from: "weir/coalesce", to: "go.etcd.io/raft/v3/raftpb"}, "raft and bbolt stay in core"},
		{edge{from: "weir/core", to: "go.etcd.io/etcd/server/v3/lease/leasepb"}, "etcd's server stays outside"},
		{edge{from: "weir/grpcapi/wire", to: "weir/coalesce"}, "floor 0 imports nothing of weir"},
		{edge{from: "weir/core/wal", to: "weir/core/mvcc"}, "floor 1 packages do not import each other"},
		{edge{from: "weir/coalesce", to: "weir/cache", test: true}, "floor 1 packages do not import each other"},
		{edge{from: "weir/proxy", to: "weir/core"}, "floor 2 packages do not import each other"},
		{edge{from: "weir/core", to: "weir/grpcapi"}, "floor 2 packages do not import each other"},
		{edge{from: "weir/grpcapi", to: "weir/proxy/feed"}, "floor 2 packages do not import each other"},
		{edge{from: "weir/proxy/feed", to: "weir/proxy"}, "floor 2 packages do not import each other"},
		{edge{from: "weir/proxy/reads", to: "weir/proxy/feed"}, "floor 2 packages do not import each other"},
		{edge{from: "weir/coalesce", to: "weir/grpcapi"}, "imports go down"},
	} {
		i := broken(c.edge)
		if i < 0 || rules[i].name != c.want {
			t.Errorf("%v: breaks rule %d, want %q", c.edge, i, c.want)
			continue
		}
		delete(unproven, c.want)
	}
	for name := range unproven {
		t.Errorf("no case shows that %q is enforced", name)
	}
}

func TestAllowedImportsBreakNoRule(t *testing.T) {
	for _, e := range []edge{
		{from: "weir/cmd/proxy", to: "weir/core"},
		{from: "weir/cmd/proxy", to: "weir/proxy"},
		{from: "weir/core", to: "weir/core/mvcc"},
		{from: "weir/core", to: "weir/coalesce"},
		{from: "weir/core", to: coretest, test: true},
		{from: coretest, to: "weir/core"},
		{from: "weir/coalesce", to: bubble, test: true},
		{from: "weir/core/mvcc", to: "weir/grpcapi/wire"},
		{from: "weir/core/mvcc", to: "go.etcd.io/bbolt"},
		{from: "weir/proxy", to: "google.golang.org/grpc"},
	} {
		if i := broken(e); i >= 0 {
			t.Errorf("%v breaks %q", e, rules[i].name)
		}
	}
}

// TestBubblesAreSafeBesideTheRaceDetector: package bubble says why. loadtest is a module of its own, which does not require this one,
// and make runs its tests without the race detector.
func TestBubblesAreSafeBesideTheRaceDetector(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if path == "loadtest" {
			return filepath.SkipDir
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasPrefix(path, "internal/bubble/") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "synctest"+".Test(") {
			t.Errorf("%s: call bubble.Test; package bubble says why", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEtcdServerIsNotRequired(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mod), "go.etcd.io/etcd/server") {
		t.Error("go.mod requires go.etcd.io/etcd/server: whoever builds weir would get it too; it belongs in loadtest/go.mod")
	}
}

// TestEveryPackageSaysWhatItIsFor walks the tree, and so sees the modules below loadtest too.
func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); name == "testdata" || path != "." && strings.HasPrefix(name, ".") {
			return fs.SkipDir
		}
		if !hasPackage(t, path) {
			return nil
		}
		doc, err := os.ReadFile(filepath.Join(path, "doc.go"))
		if errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s has no doc.go", path)
			return nil
		}
		if err != nil {
			return err
		}
		if problem := docProblem(filepath.Base(path), string(doc)); problem != "" {
			t.Errorf("%s: %s", filepath.Join(path, "doc.go"), problem)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// hasPackage tells whether dir has Go files other than tests.
func hasPackage(t *testing.T, dir string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(f string) bool { return !strings.HasSuffix(f, "_test.go") })
}

// docProblem says what is wrong with the doc.go of a package in a folder named dir, or nothing.
func docProblem(dir, source string) string {
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", source, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		return err.Error()
	}
	start := "Package " + f.Name.Name
	if f.Name.Name == "main" {
		start = "Command " + dir
	}
	// The name, at least three words about it, and a full stop.
	if !regexp.MustCompile(`^` + start + `( [^ .]+){2,} [^.]*\.`).MatchString(strings.ReplaceAll(f.Doc.Text(), "\n", " ")) {
		return "its comment must begin with the sentence \"" + start + " ...\" that says what it is for"
	}
	return ""
}

func TestDocWithoutPurposeIsFound(t *testing.T) {
	for _, c := range []struct {
		source string
		ok     bool
	}{
		{"// Package wal is the raft log on disk.\npackage wal", true},
		{"// Package wal is the raft log\n// on disk.\n//\n// More.\npackage wal", true},
		{"// Command wal prints a log.\npackage main", true},
		{"package wal", false},
		{"// Package wal.\npackage wal", false},
		{"// Package log is the raft log on disk.\npackage wal", false},
		{"// Package wal prints a raft log.\npackage main", false},
		{"// Package wal is the raft log on disk.\n\npackage wal", false},
		{"not Go", false},
	} {
		if problem := docProblem("wal", c.source); (problem == "") != c.ok {
			t.Errorf("%q: problem %q", c.source, problem)
		}
	}
}
