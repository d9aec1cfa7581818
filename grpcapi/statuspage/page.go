package statuspage

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
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
	sampled sync.Mutex // held while a sample is added and sent, and while somebody joins who is given those before it
	mux     *http.ServeMux
	making  chan struct{} // has an element for each answer that is being made

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
	// Counts is the part of it that names neither keys nor clients, for Page.Counts; nil is a server without.
	Counts func(context.Context) any
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
	// maxMaking answers are made at a time, the others wait: to look at everything takes a processor a moment, and may take
	// longer while upstream is away.
	maxMaking = 4
)

// shownAssets are what browsers are given of the assets; the rest is for the server.
var shownAssets = []string{"page.css", "page.js", "icon.svg"}

//go:embed assets
var assets embed.FS

// page never changes.
var page = template.Must(template.ParseFS(assets, "assets/page.html"))

// New begins to sample.
func New(cfg Config) *Page {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	p := &Page{cfg: cfg, door: newDoor(cfg), history: newHistory(cfg.Charts), viewers: newViewers(), mux: http.NewServeMux(), making: make(chan struct{}, maxMaking)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for _, name := range shownAssets {
		p.mux.HandleFunc("GET /weir/assets/"+name, p.asset(name))
	}
	p.mux.Handle("GET /weir/{$}", p.guarded(p.answered(p.show)))
	p.mux.Handle("GET /weir/events", p.guarded(p.follow))
	p.mux.Handle("GET /weir/status", p.guarded(p.answered(func(r *http.Request) answer { return inJSON(cfg.Status(r.Context())) })))
	if cfg.Watches != nil {
		p.mux.Handle("GET /weir/watches", p.guarded(p.answered(p.watches)))
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

// Counts answers with Config.Counts, as JSON, who may see it as they may the page: it is for ports that more people reach.
func (p *Page) Counts() http.Handler {
	return p.guarded(p.answered(func(r *http.Request) answer { return inJSON(p.cfg.Counts(r.Context())) }))
}

// ServeHTTP answers what is below /weir/.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
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

// answer is the whole of what a request is answered with.
type answer struct {
	code        int
	contentType string
	body        []byte
}

// answered makes an answer when not too many are being made. How long the client takes to take it keeps nobody waiting, and is
// bounded.
func (p *Page) answered(produce func(*http.Request) answer) http.HandlerFunc {
	inTurn := func(r *http.Request) answer {
		defer func() { <-p.making }()
		return produce(r)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case p.making <- struct{}{}:
		case <-r.Context().Done():
			return
		}
		a := inTurn(r)
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // every connection of net/http has one
		w.Header().Set("Content-Type", a.contentType)
		w.WriteHeader(a.code)
		_, _ = w.Write(a.body) // the client may be gone
	}
}

func inWords(code int, text string) answer {
	return answer{code, "text/plain; charset=utf-8", []byte(text + "\n")}
}

func inJSON(v any) answer {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // no browser takes it for HTML, and people read keys in it
	if err := e.Encode(v); err != nil {
		return inWords(http.StatusInternalServerError, err.Error())
	}
	return answer{http.StatusOK, "application/json", b.Bytes()}
}

// asset serves a file that never changes while the server runs.
func (p *Page) asset(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache") // that of another version has the same name
		http.ServeFileFS(w, r, assets, "assets/"+name)
	}
}

func (p *Page) show(r *http.Request) answer {
	var b bytes.Buffer
	if err := page.Execute(&b, p.shown(r.Context())); err != nil {
		p.cfg.Logger.Error("could not make the status page", "error", err)
		return inWords(http.StatusInternalServerError, "could not make the page")
	}
	return answer{http.StatusOK, "text/html; charset=utf-8", b.Bytes()}
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
	if err := render("notices", "notices", v.Notices); err != nil {
		return nil, err
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

// queryNames are what may be asked for.
var queryNames = []string{"range", "limit", "continue"}

func (p *Page) watches(r *http.Request) answer {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return inWords(http.StatusBadRequest, "the query is malformed: "+err.Error())
	}
	q, err := parseQuery(values)
	if err != nil {
		return inWords(http.StatusBadRequest, err.Error())
	}
	list, err := p.cfg.Watches(q)
	if err != nil {
		return inWords(http.StatusBadRequest, err.Error())
	}
	return inJSON(list)
}

// parseQuery reads range=KEY[,END], limit and continue. A comma in a key is written as %2C, in addition to the escaping of all queries.
// Another name is refused: who misspells range is not to take the list of all watches for those of a range.
func parseQuery(values url.Values) (q Query, err error) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(queryNames, name) {
			return q, fmt.Errorf("%q is unknown: there are %s", name, strings.Join(queryNames, ", "))
		}
	}
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
