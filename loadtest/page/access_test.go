package page

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// visit asks for a page of weir's, with what show adds to the request.
func visit(s *targettest.Site, path string, show func(*http.Request)) (code int, body string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Endpoint()+path, nil)
	s.Must(err)
	show(r)
	resp, err := http.DefaultClient.Do(r)
	s.Must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	s.Must(err)
	return resp.StatusCode, string(text)
}

func asNobody(*http.Request) {}

func withPassword(name, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(name, password) }
}

func TestPageIsForRootWhileAuthenticationIsOn(t *testing.T) {
	for _, kind := range []target.Kind{target.Core, target.ProxyCore, target.ProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: 2 * time.Minute, MemberArgs: []string{target.CheapPasswords}})
			client := targettest.Client(t, s.Cluster.Members[0].Addr)
			for _, name := range []string{"root", "alice"} {
				_, err := client.UserAdd(s.Ctx, name, name+"'s")
				s.Must(err)
			}
			_, err := client.RoleAdd(s.Ctx, "root")
			s.Must(err)
			_, err = client.UserGrantRole(s.Ctx, "root", "root")
			s.Must(err)
			code, _ := visit(s, "/weir/", asNobody)
			targettest.Want(t, "nobody, while it is off", code, http.StatusOK)
			_, err = client.AuthEnable(s.Ctx)
			s.Must(err)
			s.Eventually(10*time.Second, "nobody is refused", func() error {
				if code, _ := visit(s, "/weir/", asNobody); code != http.StatusUnauthorized {
					return fmt.Errorf("got %d", code)
				}
				return nil
			})
			login, err := client.Authenticate(s.Ctx, "root", "root's")
			s.Must(err)
			withToken := func(r *http.Request) { r.Header.Set("Authorization", login.Token) }
			for _, path := range []string{"/weir/", "/weir/status", "/weir/watches", "/weir/events"} {
				for _, c := range []struct {
					who  string
					show func(*http.Request)
					want int
				}{
					{"nobody", asNobody, http.StatusUnauthorized},
					{"a wrong password", withPassword("root", "guess"), http.StatusUnauthorized},
					{"alice", withPassword("alice", "alice's"), http.StatusForbidden},
					{"root", withPassword("root", "root's"), http.StatusOK},
					{"root's token", withToken, http.StatusOK},
				} {
					if path == "/weir/events" && c.want == http.StatusOK {
						continue // it does not end
					}
					code, _ := visit(s, path, c.show)
					if code == http.StatusTooManyRequests {
						time.Sleep(time.Second) // as it says
						code, _ = visit(s, path, c.show)
					}
					targettest.Want(t, c.who+" at "+path, code, c.want)
				}
			}
		})
	}
}

func TestWhoWatchesIsListed(t *testing.T) {
	for _, kind := range []target.Kind{target.Core, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: 2 * time.Minute})
			client := targettest.Client(t, s.Endpoint())
			for _, key := range []string{"/a/1", "/a/2", "/b/\x00\xff"} {
				client.Watch(s.Ctx, key)
			}
			client.Watch(s.Ctx, "/c/", clientv3.WithPrefix())
			for query, want := range map[string][]string{
				"":                     {"/a/1", "/a/2", `/b/\\x00\\xff`, "/c/*"},
				"?range=/a/,/a0":       {"/a/1", "/a/2"},
				"?range=/c/x":          {"/c/*"},
				"?range=/b/,&limit=10": {`/b/\\x00\\xff`, "/c/*"},
				"?range=/d":            {},
			} {
				s.Eventually(10*time.Second, "the watches "+query, func() error {
					code, body := visit(s, "/weir/watches"+query, asNobody)
					if n := strings.Count(body, `"watch_id"`); code != http.StatusOK || n != len(want) {
						return fmt.Errorf("got %d with %d watches", code, n)
					}
					for _, w := range want {
						if !strings.Contains(body, `"range": "`+w+`"`) {
							return fmt.Errorf("%s is missing in %s", w, body)
						}
					}
					return nil
				})
			}
		})
	}
}

func TestPageCanBeSwitchedOff(t *testing.T) {
	for _, kind := range []target.Kind{target.Core, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			off := []string{"--status-page=false"}
			s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: 2 * time.Minute, MemberArgs: off, ProxyArgs: off})
			for _, path := range []string{"/weir/", "/weir/status", "/weir/watches", "/weir/events", "/weir/assets/page.js"} {
				code, _ := visit(s, path, asNobody)
				targettest.Want(t, path, code, http.StatusNotFound)
			}
		})
	}
}
