package foreign

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// etcd's documentation has the other services of the gateway in the form of an OpenAPI description only: the paths and names
// are those of https://etcd.io/docs/v3.7/dev-guide/api_reference_v3/ and api_concurrency_reference_v3/.
func TestOtherServicesOfTheGateway(t *testing.T) {
	everyTransport(t, func(t *testing.T, kind target.Kind, secure bool) {
		s := newShell(t, kind, secure)
		t.Run("leases", func(t *testing.T) { s.in(t).leases() })
		t.Run("lock", func(t *testing.T) { s.in(t).lock() })
		t.Run("election", func(t *testing.T) { s.in(t).election() })
		t.Run("maintenance", func(t *testing.T) { s.in(t).maintenance() })
		t.Run("cluster", func(t *testing.T) { s.in(t).cluster() })
	})
}

func (s *shell) leases() {
	s.answers(`curl -L http://localhost:2379/v3/lease/grant -X POST -d '{"TTL": 3600, "ID": "7587862094951936007"}'`,
		`{"header":{"revision":"1"},"ID":"7587862094951936007","TTL":"3600"}`)
	s.answers(`curl -L http://localhost:2379/v3/kv/put -X POST -d '{"key": "Zm9v", "value": "YmFy", "lease": "7587862094951936007"}'`,
		`{"header":{"revision":"2"}}`)
	s.answers(`curl -L http://localhost:2379/v3/lease/keepalive -X POST -d '{"ID": "7587862094951936007"}'`,
		`{"result":{"header":{"revision":"2"},"ID":"7587862094951936007","TTL":"3600"}}`)
	for _, path := range []string{"/v3/lease/timetolive", "/v3/kv/lease/timetolive"} {
		got := s.object(`curl -L http://localhost:2379` + path + ` -X POST -d '{"ID": "7587862094951936007", "keys": true}'`)
		if ttl, _ := got["TTL"].(string); !strings.HasPrefix(ttl, "35") { // 3599 at first
			s.Errorf("%s: a TTL of %v", path, got["TTL"])
		}
		delete(got, "TTL")
		s.compare(path, got, `{"header":{"revision":"2"},"ID":"7587862094951936007","grantedTTL":"3600","keys":["Zm9v"]}`)
	}
	s.answers(`curl -L http://localhost:2379/v3/lease/leases -X POST -d '{}'`,
		`{"header":{"revision":"2"},"leases":[{"ID":"7587862094951936007"}]}`)
	s.answers(`curl -L http://localhost:2379/v3/lease/revoke -X POST -d '{"ID": "7587862094951936007"}'`,
		`{"header":{"revision":"3"}}`)
	s.fails(`curl -L http://localhost:2379/v3/lease/revoke -X POST -d '{"ID": "7587862094951936007"}'`,
		404, `{"code":5,"message":"etcdserver: requested lease not found"}`)
	s.answers(`curl -L http://localhost:2379/v3/lease/keepalive -X POST -d '{"ID": "7587862094951936007"}'`,
		`{"result":{"header":{"revision":"3"},"ID":"7587862094951936007"}}`)
}

func (s *shell) lock() {
	for _, id := range []string{"1", "2"} {
		s.object(`curl -L http://localhost:2379/v3/lease/grant -X POST -d '{"TTL": 3600, "ID": "` + id + `"}'`)
	}
	s.answers(`curl -L http://localhost:2379/v3/lock/lock -X POST -d '{"name": "bG9jaw==", "lease": "1"}'`,
		`{"header":{"revision":"4"},"key":"bG9jay8x"}`)

	got := make(chan string, 1)
	go func() {
		_, body, err := s.whole(`curl -L http://localhost:2379/v3/lock/lock -X POST -d '{"name": "bG9jaw==", "lease": "2"}'`)
		if err != nil {
			s.Error(err)
		}
		got <- body
	}()
	s.stream(`curl -N http://localhost:2379/v3/watch -X POST -d '{"create_request": {"key": "bG9jay8y", "start_revision": "5"}}'`).
		until("events")
	s.answers(`curl -L http://localhost:2379/v3/lock/unlock -X POST -d '{"key": "bG9jay8x"}'`,
		`{"header":{"revision":"6"}}`)
	const waited = "the lock that waited"
	s.compare(waited, s.decode(waited, <-got), `{"header":{"revision":"6"},"key":"bG9jay8y"}`)
	s.answers(`curl -L http://localhost:2379/v3/lock/unlock -X POST -d '{"key": "bG9jay8y"}'`,
		`{"header":{"revision":"7"}}`)
}

func (s *shell) election() {
	s.answers(`curl -L http://localhost:2379/v3/election/campaign -X POST -d '{"name": "ZWxlY3Q=", "lease": "1", "value": "bWU="}'`,
		`{"header":{"revision":"8"},"leader":{"name":"ZWxlY3Q=","key":"ZWxlY3QvMQ==","rev":"8","lease":"1"}}`)
	s.answers(`curl -L http://localhost:2379/v3/election/leader -X POST -d '{"name": "ZWxlY3Q="}'`,
		`{"header":{"revision":"8"},"kv":{"key":"ZWxlY3QvMQ==","create_revision":"8","mod_revision":"8","version":"1","value":"bWU=","lease":"1"}}`)
	observed := s.stream(`curl -N http://localhost:2379/v3/election/observe -X POST -d '{"name": "ZWxlY3Q="}'`)
	observed.next(`{"result":{"header":{"revision":"8"},"kv":{"key":"ZWxlY3QvMQ==","create_revision":"8","mod_revision":"8","version":"1","value":"bWU=","lease":"1"}}}`)
	s.answers(`curl -L http://localhost:2379/v3/election/proclaim -X POST -d '{"leader": {"name": "ZWxlY3Q=", "key": "ZWxlY3QvMQ==", "rev": "8", "lease": "1"}, "value": "eW91"}'`,
		`{"header":{"revision":"9"}}`)
	observed.next(`{"result":{"header":{"revision":"9"},"kv":{"key":"ZWxlY3QvMQ==","create_revision":"8","mod_revision":"9","version":"2","value":"eW91","lease":"1"}}}`)
	s.answers(`curl -L http://localhost:2379/v3/election/resign -X POST -d '{"leader": {"name": "ZWxlY3Q=", "key": "ZWxlY3QvMQ==", "rev": "8", "lease": "1"}}'`,
		`{"header":{"revision":"10"}}`)
	s.fails(`curl -L http://localhost:2379/v3/election/leader -X POST -d '{"name": "ZWxlY3Q="}'`,
		500, `{"code":2,"message":"election: no leader"}`)
}

func (s *shell) maintenance() {
	status := s.object(`curl -L http://localhost:2379/v3/maintenance/status -X POST -d '{}'`)
	s.identified("status", status["header"])
	targettest.Want(s, "version", status["version"], any("3.7.3"))
	targettest.Want(s, "fields of the status", fields(status),
		"dbSize dbSizeInUse dbSizeQuota downgradeInfo header leader raftAppliedIndex raftIndex raftTerm storageVersion version")
	s.answers(`curl -L http://localhost:2379/v3/maintenance/alarm -X POST -d '{"action": "GET", "alarm": "NONE"}'`,
		`{"header":{"revision":"10"}}`)
	s.answers(`curl -L http://localhost:2379/v3/maintenance/defragment -X POST -d '{}'`, `{}`)
	hash := s.object(`curl -L http://localhost:2379/v3/maintenance/hashkv -X POST -d '{"revision": "10"}'`)
	if h, _ := hash["hash"].(float64); h == 0 || hash["hash_revision"] != "10" {
		s.Errorf("hashkv: got %s", text(hash))
	}
	s.stream(`curl -N http://localhost:2379/v3/maintenance/snapshot -X POST -d '{}'`).until("blob")
	s.answers(`curl -L http://localhost:2379/v3/kv/compaction -X POST -d '{"revision": "10", "physical": true}'`,
		`{"header":{"revision":"10"}}`)
}

func (s *shell) cluster() {
	list := s.object(`curl -L http://localhost:2379/v3/cluster/member/list -X POST -d '{}'`)
	members, _ := list["members"].([]any)
	targettest.Want(s, "members", len(members), 1)
	for _, m := range members {
		m, _ := m.(map[string]any)
		targettest.Want(s, "fields of a member", fields(m), "ID clientURLs name peerURLs")
	}
}

func fields(o map[string]any) string { return strings.Join(slices.Sorted(maps.Keys(o)), " ") }

// The pages of https://etcd.io/docs/v3.7/op-guide/monitoring/, and /version.
func TestDocumentedPages(t *testing.T) {
	everyTransport(t, func(t *testing.T, kind target.Kind, secure bool) {
		s := newShell(t, kind, secure)
		targettest.Want(t, "health", text(s.object(`curl -L http://localhost:2379/health`)), `{"health":"true","reason":""}`)
		// etcd decides on the versions of cluster and storage only when it has served for a while.
		version := s.object(`curl http://localhost:2379/version`)
		targettest.Want(t, "version", version["etcdserver"], any("3.7.3"))
		targettest.Want(t, "fields of the version", fields(version), "etcdcluster etcdserver storage")
		for _, path := range []string{"/readyz", "/livez", "/readyz?exclude=data_corruption"} {
			command := "curl -k http://localhost:2379" + path
			targettest.Want(t, command, strings.TrimSpace(s.page(command)), "ok")
		}
		verbose := regexp.MustCompile(`^(\[\+\][a-z_]+ ok\n)*ok\n+$`) // which checks there are is the server's business
		for _, path := range []string{"/readyz?verbose", "/livez?verbose"} {
			command := "curl -k http://localhost:2379" + path
			if page := s.page(command); !verbose.MatchString(page) {
				t.Errorf("%s: got\n%s", command, page)
			}
		}
		metrics := s.page(`curl -L http://localhost:2379/metrics`)
		for _, want := range []string{"\netcd_server_has_leader 1\n", "\n# TYPE etcd_server_has_leader gauge\n"} {
			if !strings.Contains(metrics, want) {
				t.Errorf("the metrics are without %q", want)
			}
		}
	})
}
