package coretest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/cryptotest"
)

// seedsOfScript is with how many seeds each scenario is played: delays and election timeouts differ.
const seedsOfScript = 4

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(file), "testdata/"), ".txt")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			script, err := Parse(string(text))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			for seed := range uint64(seedsOfScript) {
				cryptotest.SetGlobalRandom(t, seed)
				if c, err := script.Run(seed); err != nil {
					t.Fatalf("%s, seed %d: %v\n%s", file, seed, err, c.Trace())
				}
			}
		})
	}
}

func TestMistakesInScriptsAreNamed(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"elect 1", "how many members"},
		{"members three", "line 1"},
		{"members 3\nelcet 1", `line 2: there is no command "elcet"`},
		{"members 3\nelect x", `line 2: elect x: "x" is no member`},
		{"members 3\nelect", "line 2: elect: with which members"},
		{"members 3\ncrash 1 at night", "line 2: crash 1 at night: there is no step night"},
		{"members 3\nhold Gossip", "line 2: hold Gossip: there is no message Gossip"},
		{"members 3\ndone a", "line 2: done a: there is no a"},
		{"members 3\nleads 1", "line 2: leads 1: it does not"},
		{"members 3\nelect 1\nisolate 1\nput 1", "line 4: put 1: not so after"},
	} {
		script, err := Parse(c.text)
		if err == nil {
			_, err = script.Run(1)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.text, err, c.want)
		}
	}
}
