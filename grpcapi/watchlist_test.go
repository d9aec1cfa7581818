package grpcapi

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"weir/grpcapi/statuspage"
)

func TestWatchesOfClientsAreListedByRange(t *testing.T) {
	s := newWatchServer(t, 1<<20)
	service := s.start()
	for range 2 {
		c := s.open()
		for i := range 5 {
			c.create(key(fmt.Sprintf("/a/%d", i)))
			c.recv()
		}
		c.create(keys("/b/", "/b0"))
		c.recv()
	}
	server := &Server{watches: service, conns: newConns()}
	who := func(context.Context) string { return "somebody" }
	list := func(q statuspage.Query) (ranges []string, pages int) {
		for {
			p, err := server.Watches(q, who)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Watches) > q.Limit {
				t.Fatalf("%d are listed", len(p.Watches))
			}
			for _, w := range p.Watches {
				if w.Client != "somebody" || !strings.HasPrefix(w.From, "127.0.0.1:") {
					t.Errorf("got %+v", w)
				}
				ranges = append(ranges, fmt.Sprintf("%d:%s", w.Stream, w.Range))
			}
			pages++
			if q.Continue = p.Continue; q.Continue == "" {
				return ranges, pages
			}
		}
	}
	for _, c := range []struct {
		key, end string
		limit    int
		want     string
		pages    int
	}{
		{"", "", 100, "1:/a/0 1:/a/1 1:/a/2 1:/a/3 1:/a/4 1:/b/* 2:/a/0 2:/a/1 2:/a/2 2:/a/3 2:/a/4 2:/b/*", 1},
		{"/a/3", "/b/1", 2, "1:/a/3 1:/a/4 1:/b/* 2:/a/3 2:/a/4 2:/b/*", 3},
		{"/b/x", "", 100, "1:/b/* 2:/b/*", 1},
		{"/a/4", "\x00", 100, "1:/a/4 1:/b/* 2:/a/4 2:/b/*", 1},
		{"/c", "/d", 100, "", 1},
	} {
		got, pages := list(statuspage.Query{Key: []byte(c.key), End: []byte(c.end), Limit: c.limit})
		if strings.Join(got, " ") != c.want || pages != c.pages {
			t.Errorf("%s to %s: got %v in %d pages", c.key, c.end, got, pages)
		}
	}
	for _, wrong := range []string{"x", "1", "1.x", "-1.2"} {
		if _, err := server.Watches(statuspage.Query{Continue: wrong, Limit: 1}, who); err == nil {
			t.Errorf("continue=%s is taken", wrong)
		}
	}
	if slow := server.SlowestWatches(10, who); len(slow) != 0 {
		t.Errorf("got %v", slow)
	}
	if c := server.Clients(); c.Streams != 2 || c.Watches != 12 || c.Behind != 0 {
		t.Errorf("got %+v", c)
	}
}
