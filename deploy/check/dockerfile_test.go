package check

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// nobody is the user of the images, whom no system knows.
const nobody = "65532:65532"

// dockerfile parses deploy/Dockerfile, with every rule of BuildKit's linter.
func dockerfile(t *testing.T) map[string]instructions.Stage {
	t.Helper()
	f, err := os.Open("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ast, err := parser.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ast.Warnings {
		t.Errorf("%s %v", w.Short, w.Location)
	}
	stages, _, err := instructions.Parse(ast.AST, linter.New(&linter.Config{
		Warn: func(rule, _, _, message string, _ []parser.Range) { t.Errorf("%s: %s", rule, message) },
	}))
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]instructions.Stage{}
	for _, s := range stages {
		byName[s.Name] = s
	}
	return byName
}

// only returns the one instruction of its type in a stage.
func only[T instructions.Command](t *testing.T, s instructions.Stage) T {
	t.Helper()
	var found []T
	for _, c := range s.Commands {
		if c, ok := c.(T); ok {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		t.Fatalf("stage %s has %d of %T, want 1", s.Name, len(found), *new(T))
	}
	return found[0]
}

// TestImagesHoldOneProgramForAnotherUser: nothing is in an image but what the stage names, so the program cannot start a shell, and
// neither user nor signal is left to who runs it.
func TestImagesHoldOneProgramForAnotherUser(t *testing.T) {
	stages := dockerfile(t)
	for _, name := range []string{"core", "proxy"} {
		stage := stages[name]
		if stage.BaseName != "scratch" {
			t.Errorf("%s is made from %s", name, stage.BaseName)
		}
		entry := only[*instructions.EntrypointCommand](t, stage)
		if want := []string{"/usr/bin/weir-" + name}; entry.PrependShell || !slices.Equal(entry.CmdLine, want) {
			t.Errorf("%s: entry point %v in a shell: %v, want %v without", name, entry.CmdLine, entry.PrependShell, want)
		}
		if user := only[*instructions.UserCommand](t, stage).User; user != nobody {
			t.Errorf("%s runs as %s", name, user)
		}
		if signal := only[*instructions.StopSignalCommand](t, stage).Signal; signal != "SIGTERM" {
			t.Errorf("%s is stopped with %s", name, signal)
		}
		var copied []string
		for _, c := range stage.Commands {
			switch c := c.(type) {
			case *instructions.CopyCommand:
				copied = append(copied, c.DestPath)
			case *instructions.RunCommand, *instructions.HealthCheckCommand:
				t.Errorf("%s: %v needs a program that is not there", name, c)
			}
		}
		if !slices.Contains(copied, entry.CmdLine[0]) || !slices.Contains(copied, "/etc/ssl/certs/ca-certificates.crt") {
			t.Errorf("%s has only %v", name, copied)
		}
	}
}

// programs are weir-core and weir-proxy, as the commands of the build stage make them, with another folder for /out. (What has been built before
// go takes from its cache.)
func programs(t *testing.T) (dir string) {
	t.Helper()
	out := t.TempDir()
	env := append(os.Environ(), "GOFLAGS=-buildvcs=false") // the folder may be anybody's
	for _, c := range dockerfile(t)["build"].Commands {
		switch c := c.(type) {
		case *instructions.EnvCommand:
			for _, pair := range c.Env {
				if !strings.Contains(pair.Value, "$") { // the platform is this one
					env = append(env, pair.Key+"="+pair.Value)
				}
			}
		case *instructions.RunCommand:
			script := strings.ReplaceAll(strings.Join(c.CmdLine, " "), "/out", out)
			cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
			cmd.Dir, cmd.Env = "../..", env
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", script, err, text)
			}
		}
	}
	return filepath.Join(out, "bin")
}

// TestTheBuildStageMakesStaticPrograms: they need nothing of the system, and run as another user in a folder that holds nothing else.
func TestTheBuildStageMakesStaticPrograms(t *testing.T) {
	dir := programs(t)
	for _, name := range []string{"weir-core", "weir-proxy"} {
		program := filepath.Join(dir, name)
		wantStatic(t, program)
		if os.Getuid() != 0 {
			t.Logf("%s is not tried in an empty folder: only root can", name)
			continue
		}
		root := t.TempDir()
		if err := os.Chmod(root, 0o755); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/"+name, "--version")
		cmd.Dir, cmd.Env = "/", []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		if text, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(text), "weir") {
			t.Errorf("%s as %s in an empty folder: %v\n%s", name, nobody, err, text)
		}
	}
}

// wantStatic fails if a program asks for a loader or a library.
func wantStatic(t *testing.T, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil || len(libraries) > 0 {
		t.Errorf("%s needs %v, %v", program, libraries, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s needs a loader", program)
		}
	}
}
