package foreign

import (
	"regexp"
	"strings"
	"testing"

	"weir/loadtest/target"
)

// The commands of https://etcd.io/docs/v3.7/dev-guide/api_grpc_gateway/ as they stand there, and below each the answer that
// stands there, with this store's revisions.
func TestDocumentedGatewayCommands(t *testing.T) {
	everyTransport(t, func(t *testing.T, kind target.Kind, secure bool) {
		s := newShell(t, kind, secure)
		t.Run("put and get keys", func(t *testing.T) { s.in(t).putAndGet() })
		t.Run("watch keys", func(t *testing.T) { s.in(t).watch() })
		t.Run("transactions", func(t *testing.T) { s.in(t).transactions() })
		t.Run("authentication", func(t *testing.T) { s.in(t).authentication() })
	})
}

func (s *shell) putAndGet() {
	s.answers(`curl -L http://localhost:2379/v3/kv/put \
  -X POST -d '{"key": "Zm9v", "value": "YmFy"}'`,
		`{"header":{"revision":"2"}}`)

	s.answers(`curl -L http://localhost:2379/v3/kv/range \
  -X POST -d '{"key": "Zm9v"}'`,
		`{"header":{"revision":"2"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}`)

	s.answers(`curl -L http://localhost:2379/v3/kv/range \
  -X POST -d '{"key": "Zm9v", "range_end": "Zm9w"}'`,
		`{"header":{"revision":"2"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}`)
}

func (s *shell) watch() {
	w := s.stream(`curl -N http://localhost:2379/v3/watch \
  -X POST -d '{"create_request": {"key":"Zm9v"} }'`)
	w.next(`{"result":{"header":{"revision":"2"},"created":true}}`)

	s.answers(`curl -L http://localhost:2379/v3/kv/put \
  -X POST -d '{"key": "Zm9v", "value": "YmFy"}'`,
		`{"header":{"revision":"3"}}`)
	w.next(`{"result":{"header":{"revision":"3"},"events":[{"kv":{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"YmFy"}}]}}`)
}

func (s *shell) transactions() {
	s.answers(`curl -L http://localhost:2379/v3/kv/txn \
  -X POST \
  -d '{"compare":[{"target":"CREATE","key":"Zm9v","createRevision":"2"}],"success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}]}'`,
		`{"header":{"revision":"4"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"4"}}}]}`)

	s.answers(`curl -L http://localhost:2379/v3/kv/put \
  -X POST -d '{"key": "Zm9v", "value": "YmF6"}'`,
		`{"header":{"revision":"5"}}`)
	s.answers(`curl -L http://localhost:2379/v3/kv/txn \
  -X POST \
  -d '{"compare":[{"version":"4","result":"EQUAL","target":"VERSION","key":"Zm9v"}],"success":[{"requestRange":{"key":"Zm9v"}}]}'`,
		`{"header":{"revision":"5"},"succeeded":true,"responses":[{"response_range":{"header":{"revision":"5"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"5","version":"4","value":"YmF6"}],"count":"1"}}]}`)
}

func (s *shell) authentication() {
	s.answers(`curl -L http://localhost:2379/v3/auth/user/add \
  -X POST -d '{"name": "root", "password": "pass"}'`,
		`{"header":{"revision":"5"}}`)
	s.answers(`curl -L http://localhost:2379/v3/auth/role/add \
  -X POST -d '{"name": "root"}'`,
		`{"header":{"revision":"5"}}`)
	s.answers(`curl -L http://localhost:2379/v3/auth/user/grant \
  -X POST -d '{"user": "root", "role": "root"}'`,
		`{"header":{"revision":"5"}}`)
	s.answers(`curl -L http://localhost:2379/v3/auth/enable -X POST -d '{}'`,
		`{"header":{"revision":"5"}}`)

	got := s.object(`curl -L http://localhost:2379/v3/auth/authenticate \
  -X POST -d '{"name": "root", "password": "pass"}'`)
	token, _ := got["token"].(string)
	if !regexp.MustCompile(`^[a-zA-Z]{16}\.[1-9][0-9]*$`).MatchString(token) {
		s.Fatalf("got the token %q, want one like sssvIpwfnLAcWAQH.9", token)
	}
	put := `curl -L http://localhost:2379/v3/kv/put \
  -H 'Authorization: sssvIpwfnLAcWAQH.9' \
  -X POST -d '{"key": "Zm9v", "value": "YmFy"}'`
	s.answers(strings.Replace(put, "sssvIpwfnLAcWAQH.9", token, 1), `{"header":{"revision":"6"}}`)
	s.fails(put, 401, `{"code":16,"message":"etcdserver: invalid auth token"}`)
	s.fails(strings.Replace(put, "-H 'Authorization: sssvIpwfnLAcWAQH.9'", "", 1), 400, `{"code":3,"message":"etcdserver: user name is empty"}`)
}
