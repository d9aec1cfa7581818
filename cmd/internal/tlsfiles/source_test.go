package tlsfiles

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// words is a source of two files that counts how often it parses. A file without an "ok" cannot be used.
type words struct {
	*source[string]
	parsed int
}

func newWords(t *testing.T, log *logged, a, b string) *words {
	t.Helper()
	w := &words{}
	s, err := newSource(NewSet(log.logger(), nil), func(contents [][]byte) (string, error) {
		w.parsed++
		for _, c := range contents {
			if !strings.HasPrefix(string(c), "ok") {
				return "", errors.New("no ok in " + string(c))
			}
		}
		return string(contents[0]) + string(contents[1]), nil
	}, file{"a-file", a}, file{"b-file", b})
	must(t, err)
	w.source = s
	return w
}

func (w *words) want(t *testing.T, value string) {
	t.Helper()
	if got := w.current(); got != value {
		t.Errorf("got %q, want %q", got, value)
	}
}

const unusable = "cannot be used"

func TestSourceIsWhatTheFilesHoldNow(t *testing.T) {
	f, log := newFolder(t), &logged{}
	w := newWords(t, log, f.write("a", "ok1"), f.write("b", "ok1"))
	w.want(t, "ok1ok1")
	f.write("a", "ok2")
	w.want(t, "ok2ok1")
	f.write("b", "ok22")
	w.want(t, "ok2ok22")
	must(t, os.WriteFile(f.path("b"), []byte("ok23"), 0o600)) // in place, of the same size, and within one tick perhaps
	w.want(t, "ok2ok23")
	if n := log.count("read changed TLS files"); n < 2 || log.count(unusable) != 0 {
		t.Errorf("the log is %s", log.buf.String())
	}
}

func TestSourceKeepsTheLastThatCouldBeUsedAndSaysSoOnce(t *testing.T) {
	for name, spoil := range map[string]func(f folder){
		"garbage": func(f folder) { f.write("b", "garbage") },
		"empty":   func(f folder) { f.write("b", "") },
		"absent":  func(f folder) { must(f.t, os.Remove(f.path("b"))) },
		"a directory": func(f folder) {
			must(f.t, os.Remove(f.path("b")))
			must(f.t, os.Mkdir(f.path("b"), 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, log := newFolder(t), &logged{}
			w := newWords(t, log, f.write("a", "ok1"), f.write("b", "ok1"))
			spoil(f)
			for range 3 {
				w.want(t, "ok1ok1")
			}
			if n := log.count(unusable); n != 1 {
				t.Errorf("said %d times: %s", n, log.buf.String())
			}
			must(t, os.RemoveAll(f.path("b")))
			f.write("b", "ok2")
			w.want(t, "ok1ok2")
			spoil(f)
			w.want(t, "ok1ok2")
			if n := log.count(unusable); n != 2 {
				t.Errorf("after it was good again, said %d times: %s", n, log.buf.String())
			}
		})
	}
}

func TestUnchangedFilesAreParsedOnce(t *testing.T) {
	f, log := newFolder(t), &logged{}
	old := time.Now().Add(-time.Minute)
	settle := func(names ...string) {
		for _, name := range names {
			must(t, os.Chtimes(f.path(name), old, old))
		}
	}
	f.write("a", "ok1")
	f.write("b", "ok1")
	settle("a", "b")
	w := newWords(t, log, f.path("a"), f.path("b"))
	for range 3 {
		w.want(t, "ok1ok1")
	}
	if w.parsed != 1 {
		t.Errorf("parsed %d times", w.parsed)
	}
	f.write("b", "ok1") // so lately that it could be changed again unseen
	for range 3 {
		w.want(t, "ok1ok1")
	}
	if w.parsed != 1 {
		t.Errorf("a file of the same content was parsed %d times", w.parsed-1)
	}

	// Another file with the same size and time, as some tools that copy leave it.
	f.write("a", "ok2")
	settle("a")
	w.want(t, "ok2ok1")

	f.write("b", "bad")
	settle("b")
	parsed := w.parsed
	for range 3 {
		w.want(t, "ok2ok1")
	}
	if w.parsed != parsed+1 {
		t.Errorf("a bad file was parsed %d times", w.parsed-parsed)
	}
}

// A Kubernetes secret is a directory of links through ..data, which is the one thing that is replaced.
func TestFilesBehindAReplacedLinkHaveChanged(t *testing.T) {
	f, log := newFolder(t), &logged{}
	for _, version := range []string{"1", "2"} {
		must(t, os.Mkdir(f.path(version), 0o700))
		f.write(version+"/a", "ok"+version)
		f.write(version+"/b", "ok"+version)
	}
	link := func(version string) {
		must(t, os.Symlink(version, f.path("..new")))
		must(t, os.Rename(f.path("..new"), f.path("..data")))
	}
	link("1")
	w := newWords(t, log, f.path("..data/a"), f.path("..data/b"))
	w.want(t, "ok1ok1")
	link("2")
	w.want(t, "ok2ok2")
}

func TestFirstReadNamesTheFlagsInOneLine(t *testing.T) {
	f := newFolder(t)
	_, err := newSource(NewSet(quiet(), nil), parsePair, file{"cert-file", f.path("none.crt")}, file{"key-file", f.path("none.key")})
	if err == nil || !strings.HasPrefix(err.Error(), "load --cert-file="+f.path("none.crt")+" and --key-file="+f.path("none.key")+": ") ||
		strings.Contains(err.Error(), "\n") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestAFileThatIsNotWholeIsNamedAlone(t *testing.T) {
	f, log := newFolder(t), &logged{}
	whole := f.write("cert", "-----BEGIN A-----\nAAAA\n-----END A-----\n")
	cut := f.write("key", "-----BEGIN A-----\nAAAA\n")
	_, err := newSource(NewSet(log.logger(), nil), parsePair, file{"cert-file", whole}, file{"key-file", cut})
	if err == nil || !strings.Contains(err.Error(), "load --key-file=") || strings.Contains(err.Error(), "--cert-file") {
		t.Errorf("got %v", err)
	}
}
