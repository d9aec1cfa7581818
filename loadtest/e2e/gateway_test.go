package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// What the JSON gateway answers must be the same: status, content type and body, ids aside. The keys and values are those of
// https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/, whose examples must work.
func TestGatewayAnswersAsEtcdDoes(t *testing.T) {
	for name, steps := range map[string][]httpStep{"requests": gatewaySteps, "users": gatewayUserSteps} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compareHTTP(t, steps, target.Core, target.ProxyCore, target.ProxyEtcd37)
		})
	}
}

// The same for what is served beside the gateway. A proxy has some of that otherwise, as etcd's has.
func TestHTTPAnswersAsEtcdDoes(t *testing.T) { compareHTTP(t, healthSteps, target.Core) }

func compareHTTP(t *testing.T, steps []httpStep, kinds ...target.Kind) {
	wanted := httpTranscript(t, target.Etcd37, steps)
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			for i, got := range httpTranscript(t, kind, steps) {
				if got != wanted[i] {
					t.Errorf("%s\nis answered:\n%s\nby etcd:\n%s", steps[i], got, wanted[i])
				}
			}
		})
	}
}

// httpStep is one request. In the body and the authorization, {lease} and {token} stand for those answered last.
type httpStep struct {
	path          string
	body          string
	method        string // POST if empty and there is a body, else GET
	authorization string
	header        string // one more, as "Name: value"
	// answers, if not 0, is how many documents to read of a body that does not end by itself.
	answers int
	before  func(*fixture) // if not nil, is done first
}

func (s httpStep) String() string {
	return fmt.Sprintf("%s %s %s %s", s.verb(), s.path, s.header, s.body)
}

func (s httpStep) verb() string {
	if s.method == "" && s.body != "" {
		return http.MethodPost
	}
	return s.method
}

// httpTranscript is what a target answers to each step, without what differs from run to run.
func httpTranscript(t *testing.T, kind target.Kind, steps []httpStep) []string {
	f := newFixture(t, targettest.Start(t, bin, kind, target.CheapPasswords))
	last := map[string]string{}
	var all []string
	for _, step := range steps {
		if step.before != nil {
			step.before(f)
		}
		all = append(all, f.exchange(step, last))
	}
	return all
}

// exchange sends a request and shows the answer. last is the lease and the token.
func (f *fixture) exchange(step httpStep, last map[string]string) string {
	f.Helper()
	fill := strings.NewReplacer("{lease}", last["ID"], "{token}", last["token"]).Replace
	req, err := http.NewRequestWithContext(f.ctx, step.verb(), "http://"+f.target.Endpoint+step.path, strings.NewReader(fill(step.body)))
	f.must(err)
	if step.authorization != "" {
		req.Header.Set("Authorization", fill(step.authorization))
	}
	if name, value, ok := strings.Cut(step.header, ": "); ok {
		req.Header.Set(name, value)
	}
	// A redirection is an answer too.
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := c.Do(req)
	if err != nil {
		f.Fatalf("%s: %v", step, err)
	}
	defer r.Body.Close()
	shown := r.Status
	for _, name := range []string{"Content-Type", "Location", "Allow", "X-Content-Type-Options", "Access-Control-Allow-Origin", "Access-Control-Allow-Methods"} {
		shown += "\n" + name + ": " + r.Header.Get(name)
	}
	return shown + "\n" + f.body(r.Body, step.answers, last)
}

// body shows a body: JSON without the spaces, which protojson sets at random, else as it is.
func (f *fixture) body(r io.Reader, answers int, last map[string]string) string {
	f.Helper()
	var read bytes.Buffer
	var shown strings.Builder
	for documents := json.NewDecoder(io.TeeReader(r, &read)); ; {
		var m json.RawMessage
		switch err := documents.Decode(&m); {
		case errors.Is(err, io.EOF):
			return shown.String()
		case err != nil:
			_, err := io.Copy(&read, r)
			f.must(err)
			return normalHTTP(read.String())
		}
		var flat bytes.Buffer
		f.must(json.Compact(&flat, m))
		for name := range map[string]bool{"ID": true, "token": true} {
			if found := regexp.MustCompile(`"` + name + `":"([^"]+)"`).FindSubmatch(flat.Bytes()); found != nil {
				last[name] = string(found[1])
			}
		}
		shown.WriteString(normalHTTP(flat.String()) + "\n")
		if answers--; answers == 0 {
			return shown.String()
		}
	}
}

var httpFluctuant = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`"(cluster_id|member_id|raft_term|raftTerm|leader|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|memberID|ID|TTL|remaining_bytes|lease)":"\d+"`), `"$1":"N"`},
	{regexp.MustCompile(`"hash":\d+`), `"hash":N`}, // of ids too
	{regexp.MustCompile(`"(blob|token)":"[^"]+"`), `"$1":"..."`},
	{regexp.MustCompile(`memberID:\d+ +`), `memberID:N `},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), `ADDR`},
	{regexp.MustCompile("\u00a0"), " "}, // at random, like the spaces
	{regexp.MustCompile(`"storage":"[^"]*"`), `"storage":"..."`},
}

func normalHTTP(text string) string {
	for _, f := range httpFluctuant {
		text = f.re.ReplaceAllString(text, f.to)
	}
	if strings.HasPrefix(text, "[") { // checks of health, in the order of a Go map
		lines := strings.Split(text, "\n")
		slices.Sort(lines)
		text = strings.Join(lines, "\n")
	}
	return text
}
