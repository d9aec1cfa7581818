package foreign

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// shell is where a user types commands for curl, one server before it. Its answers are compared with what etcd's
// documentation shows, but for what differs from cluster to cluster.
type shell struct {
	*testing.T
	ctx    context.Context
	server string // like http://127.0.0.1:2379
	client *http.Client
}

// shellTimeout bounds what one test waits for.
const shellTimeout = 30 * time.Second

func newShell(t *testing.T, kind target.Kind, secure bool) *shell {
	tg, tls := start(t, kind, secure)
	s := &shell{T: t, server: "http://" + tg.Endpoint}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithTimeout(context.Background(), shellTimeout)
	t.Cleanup(cancel)
	// With TLS curl offers HTTP/2, and without it speaks HTTP/1.1.
	transport := &http.Transport{ForceAttemptHTTP2: true}
	if tls != nil {
		s.server = "https://" + tg.Endpoint
		transport.TLSClientConfig = tls.Client.Clone()
	}
	t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport}
	return s
}

// documented is the server that the commands in etcd's documentation are for.
const documented = "http://localhost:2379"

// curl sends what curl sends for a command, with those of its options that etcd's documentation uses.
func (s *shell) curl(command string) (*http.Response, error) {
	args, err := words(command)
	if err != nil || len(args) == 0 || args[0] != "curl" {
		return nil, fmt.Errorf("not a command for curl: %s (%w)", command, err)
	}
	method, url, body := http.MethodGet, "", ""
	header := http.Header{"User-Agent": {"curl/8.14.1"}, "Accept": {"*/*"}}
	for args = args[1:]; len(args) > 0; args = args[1:] {
		switch option := args[0]; option {
		case "-L", "-N", "-k": // follow redirects, do not buffer, do not verify: nothing in the request
			continue
		case "-X", "-d", "-H":
			if args = args[1:]; len(args) == 0 {
				return nil, fmt.Errorf("%s: no value for %s", command, option)
			}
			switch option {
			case "-X":
				method = args[0]
			case "-d": // curl takes every body for that of a form, unless told otherwise
				body = args[0]
				header.Set("Content-Type", "application/x-www-form-urlencoded")
			case "-H":
				name, value, _ := strings.Cut(args[0], ": ")
				header.Set(name, value)
			}
		default:
			path, ok := strings.CutPrefix(option, documented)
			if !ok || url != "" {
				return nil, fmt.Errorf("%s: cannot do %q", command, option)
			}
			url = s.server + path
		}
	}
	req, err := http.NewRequestWithContext(s.ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	req.Header = header
	r, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	return r, nil
}

// words are those of a shell command, which may be in single quotes and go on in the next line after a backslash.
func words(command string) ([]string, error) {
	var all []string
	rest := strings.ReplaceAll(command, "\\\n", " ")
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		word, end := "", strings.IndexAny(rest, " '")
		switch {
		case end < 0:
			word, rest = rest, ""
		case rest[end] == ' ':
			word, rest = rest[:end], rest[end:]
		case end > 0:
			return nil, fmt.Errorf("a quote within a word: %s", rest)
		default:
			var closed bool
			if word, rest, closed = strings.Cut(rest[1:], "'"); !closed {
				return nil, fmt.Errorf("a quote without an end: %s", rest)
			}
		}
		all = append(all, word)
	}
	return all, nil
}

// page is the whole answer to a command, whose status must be 200.
func (s *shell) page(command string) string {
	s.Helper()
	status, body, err := s.whole(command)
	if err != nil {
		s.Fatal(err)
	}
	if status != http.StatusOK {
		s.Fatalf("%s: %d\n%s", command, status, body)
	}
	return body
}

func (s *shell) whole(command string) (status int, body string, err error) {
	r, err := s.curl(command)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, "", fmt.Errorf("%s: read the answer: %w", command, err)
	}
	return r.StatusCode, string(b), nil
}

// in is the shell in a subtest.
func (s *shell) in(t *testing.T) *shell {
	sub := *s
	sub.T = t
	return &sub
}

// fails sends a command and compares its answer, an error, with the one wanted.
func (s *shell) fails(command string, status int, want string) {
	s.Helper()
	got, body, err := s.whole(command)
	if err != nil {
		s.Fatal(err)
	}
	targettest.Want(s, command, got, status)
	s.compare(command, s.decode(command, body), want)
}

// answers sends a command and compares its answer, which is one JSON object, with the one wanted.
func (s *shell) answers(command, want string) {
	s.Helper()
	s.compare(command, s.object(command), want)
}

// object is the answer to a command, which must be one JSON object.
func (s *shell) object(command string) map[string]any {
	s.Helper()
	return s.decode(command, s.page(command))
}

func (s *shell) decode(what, body string) map[string]any {
	s.Helper()
	o := map[string]any{}
	if err := json.Unmarshal([]byte(body), &o); err != nil {
		s.Fatalf("%s: %v in\n%s", what, err, body)
	}
	return o
}

// stream is the answer to a command that goes on. It ends with the test.
type stream struct {
	*shell
	command string
	objects *json.Decoder
}

func (s *shell) stream(command string) *stream {
	s.Helper()
	r, err := s.curl(command)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { r.Body.Close() })
	if r.StatusCode != http.StatusOK {
		s.Fatalf("%s: %s", command, r.Status)
	}
	return &stream{shell: s, command: command, objects: json.NewDecoder(r.Body)}
}

// next compares the next object of the stream with the one wanted.
func (s *stream) next(want string) {
	s.Helper()
	got := map[string]any{}
	if err := s.objects.Decode(&got); err != nil {
		s.Fatalf("%s: %v, want %s", s.command, err, want)
	}
	s.compare(s.command, got, want)
}

// until reads objects until one comes whose result has a field.
func (s *stream) until(field string) {
	s.Helper()
	for {
		var got struct{ Result map[string]any }
		if err := s.objects.Decode(&got); err != nil {
			s.Fatalf("%s: %v, want %s", s.command, err, field)
		}
		if _, ok := got.Result[field]; ok {
			return
		}
	}
}

func (s *shell) compare(command string, got map[string]any, want string) {
	s.Helper()
	for _, o := range []any{got, got["result"]} {
		if o, ok := o.(map[string]any); ok {
			s.identified(command, o["header"])
		}
	}
	wanted := s.decode("the wanted answer", want)
	if !reflect.DeepEqual(got, wanted) {
		s.Errorf("%s\n\tgot  %s\n\twant %s", command, text(got), text(wanted))
	}
}

// identified takes out of an answer's header what differs from cluster to cluster, and must be there.
func (s *shell) identified(command string, header any) {
	s.Helper()
	h, ok := header.(map[string]any)
	if !ok {
		return
	}
	for _, name := range []string{"cluster_id", "member_id", "raft_term"} {
		if id, _ := h[name].(string); strings.Trim(id, "0123456789") != "" || strings.Trim(id, "0") == "" {
			s.Errorf("%s: %s is %v", command, name, h[name])
		}
		delete(h, name)
	}
}

func text(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(b.String())
}

func TestWordsOfACommand(t *testing.T) {
	got, err := words("curl -L x \\\n  -X POST -d '{\"key\": \"Zm9v\"}' ''")
	if err != nil || !reflect.DeepEqual(got, []string{"curl", "-L", "x", "-X", "POST", "-d", `{"key": "Zm9v"}`, ""}) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"curl 'x", "curl x'y'"} {
		if got, err := words(bad); err == nil {
			t.Errorf("%s: got %q", bad, got)
		}
	}
}
