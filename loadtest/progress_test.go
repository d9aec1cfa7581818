package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What is built before the first turn is no part of how long turns take.
func TestBuildingIsNoPartOfWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "out")
		out, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		p := newProgress(out)
		time.Sleep(time.Minute)
		p.show(0, 0, "build core")
		time.Sleep(time.Minute)
		p.show(0, 10, "put")
		time.Sleep(time.Minute)
		p.show(1, 10, "put")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if want := "build core\n0 of 10 turns: put\n1 of 10 turns, 9m0s left: put\n"; string(text) != want {
			t.Errorf("%s, want %s", strings.TrimSpace(string(text)), want)
		}
	})
}
