package wal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMkdirAllMakesWhatIsMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	for range 2 { // the second time all is there
		if err := OS().MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		t.Errorf("got %v, %v", info, err)
	}
}

func TestMkdirAllSaysWhyADirectoryCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Skip(err) // Windows wants a privilege for it
	}
	for path, want := range map[string]string{
		"file":        "file exists",
		"file/a/b":    "not a directory",
		"link":        "link is a symbolic link whose target is missing",
		"link/member": "link is a symbolic link whose target is missing",
	} {
		if err := OS().MkdirAll(filepath.Join(dir, path)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

// A deleted working directory is there, and yet nothing can be made in it.
func TestMkdirAllEndsInADirectoryThatIsDeleted(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(gone)
	if err := os.Remove(gone); err != nil {
		t.Skip(err) // not every system deletes what is in use
	}
	for _, dir := range []string{"a", "a/b/c"} {
		if err := OS().MkdirAll(dir); !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("%s: got %v", dir, err)
		}
	}
}
