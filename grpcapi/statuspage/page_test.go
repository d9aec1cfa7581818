package statuspage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"weir/internal/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a Page that everybody may see, unless permit says otherwise.
type site struct {
	*httptest.Server
	page  *Page
	shown atomic.Int64 // in the only tile
	views atomic.Int64 // made
}

func newSite(t *testing.T, permit func(context.Context) error) *site {
	t.Helper()
	s := &site{}
	s.page = New(s.config(permit))
	s.Server = httptest.NewServer(s.page)
	t.Cleanup(func() {
		s.page.Close()
		s.Close()
	})
	return s
}

func (s *site) config(permit func(context.Context) error) Config {
	return Config{
		View: func(context.Context) View {
			s.views.Add(1)
			return View{
				Title: "weir test", Name: "<b>one</b>", Notices: []Notice{{Text: "<i>no</i>", Level: Bad}},
				Tiles: []Tile{{Label: "Shown", Value: Count(s.shown.Load())}},
				Tables: []Table{
					{ID: "keys", Title: "Keys", Columns: []Column{{Title: "Key", Code: true}}, Rows: [][]Cell{Row(Key([]byte("<script>alert(1)</script>")))}},
					{ID: "none", Title: "None", Empty: "There is none."},
					{ID: "places", Title: "Places", Columns: []Column{{Title: "Address", Code: true, Whole: true}}, Rows: [][]Cell{Row("127.0.0.1:2379")}},
				},
			}
		},
		Status:  func(context.Context) any { return map[string]int64{"shown": s.shown.Load()} },
		Watches: func(q Query) (any, error) { return q, nil },
		Charts:  []Chart{{ID: "shown", Title: "Shown", Lines: []Line{{Name: "now"}, {Name: "unknown"}}}},
		Sample:  func() []float64 { return []float64{float64(s.shown.Load()), math.NaN()} },
		Permit:  permit,
	}
}

func everybody(context.Context) error { return nil }

func (s *site) get(t *testing.T, path string) (int, string, http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	s.page.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String(), w.Header()
}

func TestPageIsWholeWithoutScriptAndEscapesWhatClientsChoose(t *testing.T) {
	s := newSite(t, everybody)
	code, body, header := s.get(t, "/weir/")
	if code != 200 || !strings.Contains(body, "&lt;script&gt;alert(1)") || strings.Contains(body, "<script>alert") || strings.Contains(body, "<b>one") {
		t.Errorf("got %d %s", code, body)
	}
	if !strings.Contains(body, `<li class="bad">&lt;i&gt;no&lt;/i&gt;</li>`) || strings.Index(body, "&lt;i&gt;") > strings.Index(body, "At a glance") {
		t.Errorf("what is to be known first is not said first: %s", body)
	}
	if !strings.Contains(body, `class="code whole ">127.0.0.1:2379`) {
		t.Errorf("addresses may be broken: %s", body)
	}
	if !strings.Contains(body, "There is none.") {
		t.Errorf("an empty table says nothing: %s", body)
	}
	if csp := header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("got the policy %q", csp)
	}
	for _, asset := range []string{"page.css", "page.js", "icon.svg"} {
		if !strings.Contains(body, "assets/"+asset) {
			t.Errorf("the page does not refer to %s", asset)
		}
		if code, body, _ := s.get(t, "/weir/assets/"+asset); code != 200 || strings.Contains(strings.ReplaceAll(body, "http://www.w3.org/", ""), "//www.") {
			t.Errorf("%s: got %d, or it refers to somewhere else", asset, code)
		}
	}
	for _, path := range []string{"/weir/nothing", "/weir/assets/", "/weir/assets/page.html"} {
		if code, _, _ := s.get(t, path); code != 404 {
			t.Errorf("%s: got %d", path, code)
		}
	}
}

func TestAnswersAreMadeAFewAtATime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &site{}
		cfg := s.config(everybody)
		finish := make(chan struct{})
		cfg.Status = func(context.Context) any {
			s.views.Add(1)
			<-finish
			return nil
		}
		s.page = New(cfg)
		defer s.page.Close()
		var asked sync.WaitGroup
		for range 3 * maxMaking {
			asked.Go(func() {
				if code, _, _ := s.get(t, "/weir/status"); code != 200 {
					t.Errorf("got %d", code)
				}
			})
		}
		ctx, leave := context.WithCancel(t.Context())
		asked.Go(func() {
			s.page.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/weir/status", nil))
		})
		synctest.Wait()
		if n := s.views.Load(); n != maxMaking {
			t.Errorf("%d answers are being made", n)
		}
		leave() // or is asked for one more
		synctest.Wait()
		close(finish)
		asked.Wait()
		if n := s.views.Load(); n != 3*maxMaking && n != 3*maxMaking+1 {
			t.Errorf("%d answers were made", n)
		}
	})
}

func TestWhoDoesNotTakeAnAnswerKeepsNobodyWaiting(t *testing.T) {
	s := newSite(t, everybody)
	for range maxMaking {
		var stuck stuckWriter
		stuck.ResponseRecorder = httptest.NewRecorder()
		stuck.writing, stuck.finish = make(chan struct{}), make(chan struct{})
		left := make(chan struct{})
		go func() {
			defer close(left)
			s.page.ServeHTTP(&stuck, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/weir/status", nil))
		}()
		<-stuck.writing
		defer func() {
			close(stuck.finish)
			<-left
		}()
	}
	if code, _, _ := s.get(t, "/weir/status"); code != 200 {
		t.Errorf("got %d", code)
	}
}

// stuckWriter is of a client who takes nothing.
type stuckWriter struct {
	*httptest.ResponseRecorder
	writing, finish chan struct{}
}

func (w *stuckWriter) Write(b []byte) (int, error) {
	close(w.writing)
	<-w.finish
	return len(b), nil
}

func TestCountsAreForWhoMaySeeThePage(t *testing.T) {
	for _, permit := range []error{nil, errDenied} {
		s := &site{}
		cfg := s.config(func(context.Context) error { return permit })
		cfg.Counts = func(context.Context) any { return "counts" }
		s.page = New(cfg)
		w := httptest.NewRecorder()
		s.page.Counts().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/weir/status", nil))
		if shown := strings.Contains(w.Body.String(), "counts"); shown != (permit == nil) {
			t.Errorf("with %v: got %d %s", permit, w.Code, w.Body)
		}
		s.page.Close()
	}
}

func TestStatusAndWatchesAreJSON(t *testing.T) {
	s := newSite(t, everybody)
	s.shown.Store(7)
	var status struct{ Shown int }
	_, body, _ := s.get(t, "/weir/status")
	if err := json.Unmarshal([]byte(body), &status); err != nil || status.Shown != 7 {
		t.Errorf("got %s, %v", body, err)
	}
	for query, want := range map[string]Query{
		"":                           {Limit: 100},
		"range=/a/":                  {Key: []byte("/a/"), Limit: 100},
		"range=/a/,/a0&limit=5":      {Key: []byte("/a/"), End: []byte("/a0"), Limit: 5},
		"range=/a/,":                 {Key: []byte("/a/"), End: []byte{0}, Limit: 100},
		"range=,":                    {Key: []byte{0}, End: []byte{0}, Limit: 100},
		"range=%2525,b%252Cc":        {Key: []byte("%"), End: []byte("b,c"), Limit: 100},
		"continue=3.4&range=%2500":   {Key: []byte{0}, Limit: 100, Continue: "3.4"},
		"limit=1000&continue=%26%3D": {Limit: 1000, Continue: "&="},
	} {
		code, body, _ := s.get(t, "/weir/watches?"+query)
		var got Query
		if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %d %v, want %v", query, code, got, want)
		}
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "range=%25x", "rnge=zzz", "range=/a&watch=3", "range=%zz", "range=a;limit=5"} {
		code, body, _ := s.get(t, "/weir/watches?"+query)
		if said := strings.Contains(body, "=") || strings.Contains(body, " is unknown: ") || strings.Contains(body, "malformed"); code != 400 || !said {
			t.Errorf("%s: got %d %s", query, code, body)
		}
	}
}

// follow opens the stream of events. next returns the next one of that name.
func (s *site) follow(t *testing.T) (next func(name string) (data string, ok bool), end func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/weir/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func(name string) (string, bool) {
			for found := false; lines.Scan(); {
				line := lines.Text()
				if data, ok := strings.CutPrefix(line, "data: "); ok && found {
					return data, true
				}
				found = line == "event: "+name
			}
			return "", false
		}, func() {
			cancel()
			resp.Body.Close()
		}
}

func TestViewersAreSentWhatHasChanged(t *testing.T) {
	s := newSite(t, everybody)
	next, end := s.follow(t)
	defer end()
	history, _ := next("history")
	var h struct {
		Charts  []Chart
		History [][]*float64
	}
	if err := json.Unmarshal([]byte(history), &h); err != nil || len(h.Charts) != 1 || len(h.History) > 0 && h.History[0][1] != nil {
		t.Errorf("got %s, %v", history, err)
	}
	first, _ := next("parts")
	if !strings.Contains(first, `"tiles"`) || !strings.Contains(first, `"keys"`) {
		t.Errorf("at first not all is sent: %s", first)
	}
	s.shown.Store(42)
	var changed map[string]string
	for !strings.Contains(changed["tiles"], "42") {
		text, ok := next("parts")
		changed = nil
		if err := json.Unmarshal([]byte(text), &changed); err != nil || !ok {
			t.Fatalf("the change is not sent: %v", err)
		}
		if _, ok := changed["keys"]; ok {
			t.Error("what has not changed is sent again")
		}
	}
}

func TestViewIsMadeOnlyWhileSomebodyLooks(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &site{}
		s.page = New(s.config(everybody))
		defer s.page.Close()
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan struct{})
		go func() {
			defer close(left)
			s.page.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/weir/events", nil))
		}()
		time.Sleep(10*viewPeriod + viewPeriod/2)
		if n := s.views.Load(); n < 9 || n > 11 {
			t.Errorf("%d views were made in ten seconds", n)
		}
		leave()
		<-left
		made := s.views.Load()
		time.Sleep(time.Hour)
		if now := s.views.Load(); now > made+1 { // one may have been on its way
			t.Errorf("%d views were made for nobody", now-made)
		}
		s.page.history.mu.Lock()
		defer s.page.history.mu.Unlock()
		if n := len(s.page.history.samples); n != maxSamples {
			t.Errorf("there are %d samples of the hour in which nobody looked", n)
		}
	})
}

func TestViewersEndWithThePage(t *testing.T) {
	s := newSite(t, everybody)
	next, end := s.follow(t)
	defer end()
	if _, ok := next("history"); !ok {
		t.Fatal("no event")
	}
	s.page.Close()
	if _, ok := next("nothing"); ok {
		t.Error("the stream goes on")
	}
	if code, body, _ := s.get(t, "/weir/events"); code != http.StatusServiceUnavailable {
		t.Errorf("a viewer who comes later: got %d %s", code, body)
	}
}

func TestViewerWhoMayNotSeeItAnyMoreIsShownNoMore(t *testing.T) {
	var revoked atomic.Bool
	s := newSite(t, func(context.Context) error {
		if revoked.Load() {
			return errDenied
		}
		return nil
	})
	next, end := s.follow(t)
	defer end()
	if _, ok := next("parts"); !ok {
		t.Fatal("no event")
	}
	revoked.Store(true)
	for range 5 {
		if _, ok := next("parts"); !ok {
			return
		}
	}
	t.Error("it goes on for five seconds")
}

func TestViewersAreBoundedAndASlowOneIsDropped(t *testing.T) {
	s := newViewers()
	var all []*viewer
	for range maxViewers {
		v, err := s.add()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	if _, err := s.add(); !errors.Is(err, errManyViewers) {
		t.Errorf("one more: got %v", err)
	}
	for i := range viewerQueue + 1 {
		s.send([]byte("message"))
		if i < viewerQueue {
			<-all[1].queue
		}
	}
	for i, v := range all {
		n := 0
		for range len(v.queue) {
			<-v.queue
			n++
		}
		closed := false
		select {
		case _, open := <-v.queue:
			closed = !open
		default:
		}
		if wantClosed := i != 1; closed != wantClosed {
			t.Errorf("viewer %d: dropped is %v after %d messages", i, closed, n)
		}
	}
	if n := s.count(); n != 1 {
		t.Errorf("%d viewers are left", n)
	}
}
