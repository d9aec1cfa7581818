package statuspage

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Page serves the page and what belongs to it.
//
// The idea: the server makes the HTML, for a browser without JavaScript as for the others, and the script only puts parts of it
// in the place of older ones and draws the charts. So there is one rendering, in Go, where it is tested; what clients have
// chosen is escaped in one place; and all viewers are sent the same bytes.
//
// Rejected: to send JSON and have the script make the tables. It would be a second description of everything, in a language of
// which the rest of this code has none. Also rejected: a library for the charts. It would be larger than the server's own page.
//
// All methods may be called concurrently. A Page must be closed.
type Page struct {
	cfg     Config
	door    *door
	history *history
	viewers *viewers
	mux     *http.ServeMux

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// Config says what a Page shows. View, Status, Sample and Permit must be set; they may be called concurrently.
type Config struct {
	// View is what to show as of now.
	View func(context.Context) View
	// Status is what the server says of itself, for JSON.
	Status func(context.Context) any
	// Watches lists watches; nil is a server without that list. Its error is what is wrong with the Query.
	Watches func(Query) (any, error)
	// Charts never change, and Sample measures their lines, in their order. NaN is not known.
	Charts []Chart
	Sample func() []float64
	// Permit refuses who may not see this, with the error of an RPC. Who asks is in the context, as in that of an RPC.
	Permit func(context.Context) error
	// Login gives a token for a name and password, as Authenticate does.
	Login func(ctx context.Context, name, password string) (token string, err error)
	// Logger is slog.Default() when nil.
	Logger *slog.Logger
}

// Query says which watches to list.
type Query struct {
	Key, End []byte // that overlap this range; no key is all
	Continue string // after what was listed before: what that answer said; "" is from the first
	Limit    int
}

const (
	defaultWatches = 100
	maxWatches     = 1000 // in one answer
)

//go:embed assets
var assets embed.FS

// page never changes.
var page = template.Must(template.ParseFS(assets, "assets/page.html"))

// New begins to sample.
func New(cfg Config) *Page {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	p := &Page{cfg: cfg, door: newDoor(cfg), history: newHistory(cfg.Charts), viewers: newViewers(), mux: http.NewServeMux()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.mux.Handle("GET /weir/assets/", http.StripPrefix("/weir/", http.FileServerFS(assets)))
	p.mux.Handle("GET /weir/{$}", p.guarded(p.show))
	p.mux.Handle("GET /weir/events", p.guarded(p.follow))
	p.mux.Handle("GET /weir/status", p.guarded(p.status))
	if cfg.Watches != nil {
		p.mux.Handle("GET /weir/watches", p.guarded(p.watches))
	}
	p.tasks.Go(p.sample)
	p.tasks.Go(p.update)
	return p
}

// Close ends what viewers have open. They are not waited for.
func (p *Page) Close() {
	p.cancel()
	p.viewers.close()
	p.tasks.Wait()
}

// ServeHTTP answers what is below /weir/.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	p.mux.ServeHTTP(w, r)
}

// guarded is for who may see it.
func (p *Page) guarded(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if err := p.door.admit(r); err != nil {
			refuse(w, err)
			return
		}
		h(w, r)
	})
}

func (p *Page) show(w http.ResponseWriter, r *http.Request) {
	var b bytes.Buffer
	if err := page.Execute(&b, p.shown(r.Context())); err != nil {
		p.cfg.Logger.Error("could not make the status page", "error", err)
		http.Error(w, "could not make the page", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // the client may be gone
}

// shown is what the template is given.
type shown struct {
	View
	Charts []Chart
	At     string
}

func (p *Page) shown(ctx context.Context) shown {
	return shown{View: p.cfg.View(ctx), Charts: p.cfg.Charts, At: time.Now().UTC().Format(time.RFC3339)}
}

// parts renders what changes, by the ids of the elements.
func (p *Page) parts(ctx context.Context) (map[string]string, error) {
	v := p.shown(ctx)
	parts := map[string]string{}
	render := func(id, name string, data any) error {
		var b bytes.Buffer
		err := page.ExecuteTemplate(&b, name, data)
		parts[id] = b.String()
		return err
	}
	if err := render("tiles", "tiles", v.Tiles); err != nil {
		return nil, err
	}
	for _, t := range v.Tables {
		if err := render(t.ID, "table", t); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

func (p *Page) status(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, p.cfg.Status(r.Context()))
}

func (p *Page) watches(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	list, err := p.cfg.Watches(q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, list)
}

// parseQuery reads range=KEY[,END], limit and continue. A comma in a key is written as %2C, in addition to the escaping of all queries.
func parseQuery(values url.Values) (q Query, err error) {
	q = Query{Continue: values.Get("continue"), Limit: defaultWatches}
	if text := values.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > maxWatches {
			return q, fmt.Errorf("limit=%q is not possible: give it as 1 to %d", text, maxWatches)
		}
	}
	if text := values.Get("range"); text != "" {
		if q.Key, q.End, err = parseRange(text); err != nil {
			return q, fmt.Errorf("range=%q is malformed: %w", text, err)
		}
	}
	return q, nil
}

func parseRange(text string) (key, end []byte, err error) {
	from, to, isRange := bytes.Cut([]byte(text), []byte{','})
	k, err := url.PathUnescape(string(from))
	if err != nil {
		return nil, nil, err
	}
	if !isRange {
		return []byte(k), nil, nil
	}
	e, err := url.PathUnescape(string(to))
	if err != nil {
		return nil, nil, err
	}
	if e == "" { // all that comes after
		e = "\x00"
	}
	if k == "" {
		k = "\x00"
	}
	return []byte(k), []byte(e), nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the client may be gone
}
