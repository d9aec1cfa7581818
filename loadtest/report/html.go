package report

import (
	"bufio"
	"crypto/sha256"
	_ "embed" // for the page's files
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"
	"unicode"
)

//go:embed page.tmpl
var pageTemplate string

//go:embed style.css
var pageStyle string

//go:embed script.js
var pageScript string

// WriteHTML writes the report as one page that needs nothing else: no other file, no network, no script. Its own policy
// forbids it everything but its style sheet and its script, each by its hash, so what a server says in an error it quotes
// can never run. Without the script only the quicker tips over the charts are missing; where a server's policy forbids the
// style sheet too, the charts and tables still can be read.
func WriteHTML(w io.Writer, r *Report) error {
	if err := r.writeHTML(w); err != nil {
		return fmt.Errorf("writing the report as HTML: %w", err)
	}
	return nil
}

func (r *Report) writeHTML(w io.Writer) error {
	if err := r.check(); err != nil {
		return err
	}
	p := &page{report: r, ids: map[string]bool{}}
	data, err := p.data()
	if err != nil {
		return err
	}
	t, err := template.New("page").Funcs(template.FuncMap{"prose": prose, "dash": func() string { return dash }}).Parse(pageTemplate)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	if err := t.Execute(out, data); err != nil {
		return err
	}
	return out.Flush()
}

// page makes a report into what its template shows.
type page struct {
	report *Report
	ids    map[string]bool // that were given out
}

// data is what the template shows, in its order.
type data struct {
	Style     template.CSS
	Script    template.JS
	Policy    string
	Report    *Report
	Date      string
	Took      string
	Rounds    string
	Counts    string // of scenarios and systems
	Base      string
	Machine   [][]string
	Systems   []systemView
	Legend    template.HTML
	Absences  []string // why numbers are missing
	Verdicts  string   // when an aim is met
	Met       int      // aims
	Missed    int
	Undecided int
	Failed    int // turns
	Unable    int // results
	Caveats   []string
	Remarks   bool // there are some, of systems
	Summaries []matrix
	Aims      []aimView
	Kinds     []kindView
	Scale     *scaleView
	Sections  []sectionView
}

type systemView struct {
	System
	N              int
	Classes, Shade string
	Remark         string
}

type sectionView struct {
	Section
	Anchor string
	Date   string // "" if it is not known
}

func (p *page) data() (*data, error) {
	r := p.report
	style := pageStyle + p.hiding()
	d := &data{
		Style: template.CSS(style), Script: template.JS(pageScript),
		Policy: fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; base-uri 'none'; form-action 'none'", hash(style), hash(pageScript)),
		Report: r, Date: dateText(r.Started), Took: durationText(r.Took), Rounds: plural(r.Rounds(), "round"),
		Counts: plural(len(r.Scenarios), "scenario") + " × " + plural(len(r.Systems), "system"), Base: r.Base(),
		Machine: r.Machine.rows(), Legend: prose(legend(r.Base())), Absences: r.absences(), Verdicts: verdictsMean, Caveats: r.caveats(),
	}
	for i, s := range r.Systems {
		remark := r.remark(&s)
		d.Systems = append(d.Systems, systemView{s, i, p.classes(i), p.shadeClass(i), remark})
		d.Remarks = d.Remarks || remark != ""
	}
	for i := range r.Scenarios {
		for j := range r.Scenarios[i].Results {
			result := &r.Scenarios[i].Results[j]
			d.Failed += len(result.Failed)
			if result.Unsupported != "" {
				d.Unable++
			}
		}
	}
	anchors := map[string]string{}
	for _, s := range r.Scenarios {
		anchors[s.Name] = p.id("scenario-" + s.Name)
	}
	outcomes := r.Outcomes()
	for _, o := range outcomes {
		switch o.Verdict {
		case Met:
			d.Met++
		case Missed:
			d.Missed++
		case Undecided:
			d.Undecided++
		}
		d.Aims = append(d.Aims, p.aim(o, anchors[o.Scenario.Name]))
	}
	d.Summaries = p.summaries(outcomes, anchors)
	var err error
	if d.Kinds, err = p.kinds(anchors); err != nil {
		return nil, err
	}
	for _, section := range r.Tables {
		d.Sections = append(d.Sections, sectionView{section, p.id("section-" + section.Title), section.date()})
	}
	d.Scale, err = scaleViewOf(r.Scale)
	return d, err
}

// id is a name as an id that no other element of the page has.
func (p *page) id(name string) string {
	plain := strings.Map(func(c rune) rune {
		if unicode.IsLetter(c) || unicode.IsDigit(c) || c == '.' {
			return unicode.ToLower(c)
		}
		return '-'
	}, name)
	id := plain
	for n := 2; p.ids[id]; n++ {
		id = fmt.Sprintf("%s-%d", plain, n)
	}
	p.ids[id] = true
	return id
}

// hiding are rules by which a system whose box is not ticked is not shown, and of the summary only the measure that is
// chosen. They need no script; a browser that does not know :has shows everything.
func (p *page) hiding() string {
	var b strings.Builder
	for i := range p.report.Systems {
		fmt.Fprintf(&b, "body:has(#show-%d:not(:checked)) .of-%d{display:none}\n", i, i)
	}
	b.WriteString("@media screen{")
	for i := range summaries() {
		fmt.Fprintf(&b, "body:has(#by-%d:checked) .matrix:not(.matrix-%d){display:none}", i, i)
	}
	b.WriteString("}\n")
	return b.String()
}

// hash is a source of a content security policy.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// prose is a paragraph with `code` and **strong** words. All else is shown as it is.
func prose(text string) template.HTML {
	var b strings.Builder
	for i, part := range pairs(text, "`") {
		if i%2 == 1 {
			b.WriteString("<code>" + template.HTMLEscapeString(part) + "</code>")
			continue
		}
		for j, part := range pairs(part, "**") {
			if j%2 == 1 {
				b.WriteString("<strong>" + template.HTMLEscapeString(part) + "</strong>")
				continue
			}
			b.WriteString(template.HTMLEscapeString(part))
		}
	}
	return template.HTML(b.String())
}

// pairs splits text at a mark, so that every second part is what stood between two of them. A last mark without another
// stays.
func pairs(text, mark string) []string {
	parts := strings.Split(text, mark)
	if n := len(parts); n%2 == 0 {
		parts = append(parts[:n-2], parts[n-2]+mark+parts[n-1])
	}
	return parts
}
