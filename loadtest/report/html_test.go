package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

// document is the page of a report.
func document(t *testing.T, r *Report) (page string, root *html.Node) {
	t.Helper()
	var b bytes.Buffer
	if err := WriteHTML(&b, r); err != nil {
		t.Fatal(err)
	}
	root, err := html.Parse(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), root
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// text is all text below a node.
func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return b.String()
}

// find returns the first element that has what is asked for, or fails.
func find(t *testing.T, root *html.Node, what string, is func(*html.Node) bool) *html.Node {
	t.Helper()
	for n := range root.Descendants() {
		if n.Type == html.ElementNode && is(n) {
			return n
		}
	}
	t.Fatalf("the page has no %s", what)
	return nil
}

func TestThePageNeedsNothingButItself(t *testing.T) {
	page, root := document(t, example(t))
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "link", "img", "iframe", "object", "embed", "form", "base", "use", "image", "foreignobject":
			t.Errorf("the page has a %s", n.Data)
		}
		for _, a := range n.Attr {
			switch {
			case a.Key == "src" || a.Key == "action" || a.Key == "style" || strings.HasPrefix(a.Key, "on"):
				t.Errorf("a %s has the attribute %s=%q", n.Data, a.Key, a.Val)
			case a.Key == "href" && !strings.HasPrefix(a.Val, "#"):
				t.Errorf("a link goes to %q", a.Val)
			}
		}
	}
	for _, outside := range []string{"@import", "url(", "fetch(", "XMLHttpRequest"} {
		if strings.Contains(page, outside) {
			t.Errorf("the page has %q", outside)
		}
	}
}

func TestThePagesPolicyAllowsItsStyleAndScriptByHashAlone(t *testing.T) {
	_, root := document(t, example(t))
	policy := attribute(find(t, root, "policy", func(n *html.Node) bool { return attribute(n, "http-equiv") == "Content-Security-Policy" }), "content")
	style := text(find(t, root, "style", func(n *html.Node) bool { return n.Data == "style" }))
	script := text(find(t, root, "script", func(n *html.Node) bool { return n.Data == "script" }))
	want := "default-src 'none'; style-src '" + hash(style) + "'; script-src '" + hash(script) + "'; base-uri 'none'; form-action 'none'"
	if policy != want {
		t.Errorf("the policy is\n%s\nwant\n%s", policy, want)
	}
}

func TestAnchorsLeadSomewhereAndIDsAreUnique(t *testing.T) {
	r := example(t)
	r.Scenarios[1].Name = "PUT" // the same id as "put", if nobody looked
	r.Tables = append(r.Tables, r.Tables[0])
	_, root := document(t, r)
	ids, wanted := map[string]bool{}, map[string]bool{}
	for n := range root.Descendants() {
		if id := attribute(n, "id"); id != "" {
			if ids[id] {
				t.Errorf("the id %q stands there twice", id)
			}
			ids[id] = true
		}
		if href := attribute(n, "href"); href != "" {
			wanted[strings.TrimPrefix(href, "#")] = true
		}
		for _, id := range strings.Fields(attribute(n, "aria-labelledby")) {
			wanted[id] = true
		}
	}
	for id := range wanted {
		if !ids[id] {
			t.Errorf("something refers to %q, which is nowhere", id)
		}
	}
	for _, s := range r.Scenarios[2:] {
		article := find(t, root, "scenario "+s.Name, func(n *html.Node) bool { return attribute(n, "id") == "scenario-"+s.Name })
		if !strings.Contains(text(article), s.Name) {
			t.Errorf("scenario %s does not stand at its anchor", s.Name)
		}
	}
}

func TestChartsAreWellFormedAndSayWhatTheyShow(t *testing.T) {
	r := example(t)
	page, _ := document(t, r)
	pictures := regexp.MustCompile(`(?s)<svg .*?</svg>`).FindAllString(page, -1)
	// Throughput of six scenarios, for two have an open loop; processor time, two of latency, memory of eight; requests upstream of all
	// but none; and one of each check of the model.
	if want := 6 + 8*5 + len(r.Scale.Checks); len(pictures) != want {
		t.Errorf("there are %d charts, want %d", len(pictures), want)
	}
	for _, svg := range pictures {
		d := xml.NewDecoder(strings.NewReader(svg))
		var elements []string
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("a chart is not well-formed: %v\n%s", err, svg)
			}
			if start, is := token.(xml.StartElement); is {
				elements = append(elements, start.Name.Local)
				names := map[string]bool{}
				for _, a := range start.Attr {
					if names[a.Name.Local] {
						t.Errorf("a %s of a chart has the attribute %s twice", start.Name.Local, a.Name.Local)
					}
					names[a.Name.Local] = true
				}
			}
		}
		if len(elements) < 4 || elements[1] != "title" || elements[2] != "desc" {
			t.Errorf("a chart begins with %v, want a title and a description", elements[:min(4, len(elements))])
		}
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
			t.Errorf("a chart has what is no number: %s", svg)
		}
	}
}

func TestWhatServersSaidIsEscapedAndShown(t *testing.T) {
	r := example(t)
	const evil = `<img src=x onerror=alert(1)> & "quotes" ]]> {{.Style}} </script></style></svg>`
	r.Scenarios[0].Name = evil
	r.Scenarios[0].Unit = evil
	r.Scenarios[0].Description = evil
	r.Scenarios[0].Results[1].Failed = []Failure{{1, evil}}
	r.Scenarios[0].Results[1].Turns = nil
	r.Scenarios[0].Results[2].Unsupported = evil
	r.Systems[3].Caveat = evil
	r.Command = evil
	r.Tables[0].Tables[0].Rows[0][0] = evil
	r.Scale.Checks[0].Name = evil
	for i := range r.Scenarios[0].Results[3].Turns {
		r.Scenarios[0].Results[3].Turns[i].Processes[0].Role = evil
	}
	page, root := document(t, r)
	if strings.Contains(page, "<img") {
		t.Error("an element that a server sent stands in the page")
	}
	if got := text(find(t, root, "body", func(n *html.Node) bool { return n.Data == "body" })); strings.Count(got, evil) < 8 {
		t.Errorf("it is shown %d times", strings.Count(got, evil))
	}
}

func TestWhatFailedIsNamedAndIsNoZero(t *testing.T) {
	r := example(t)
	_, root := document(t, r)
	article := find(t, root, "scenario", func(n *html.Node) bool { return attribute(n, "id") == "scenario-connection-storm" })
	for _, want := range []string{"failed in rounds 1, 2, 3", "connection refused", "– all turns failed", "without a line: grpc-proxy-over-etcd-3.7 (all turns failed)", "not supported", "ResourceExhausted"} {
		if !strings.Contains(text(article), want) {
			t.Errorf("the scenario does not say %q", want)
		}
	}
	partly := find(t, root, "scenario", func(n *html.Node) bool { return attribute(n, "id") == "scenario-compare-and-put" })
	if n := strings.Count(text(partly), "1/3 failed"); n < 4 { // in each chart
		t.Errorf("that a turn failed is told %d times", n)
	}
	for n := range root.Descendants() {
		if n.Data != "td" || !strings.Contains(attribute(n, "class"), "none") {
			continue
		}
		if !strings.HasPrefix(text(n), dash) || attribute(n, "title") == "" {
			t.Errorf("a cell without a number says %q, because %q", text(n), attribute(n, "title"))
		}
	}
}

func TestAReportWithLittleInItIsStillAPage(t *testing.T) {
	for name, r := range map[string]*Report{
		"nothing":   {},
		"no turns":  {Systems: []System{{Name: "a"}}, Scenarios: []Scenario{{Name: "put", Unit: "put"}}},
		"no base":   {Systems: []System{{Name: "a"}}, Scenarios: []Scenario{{Name: "put", Unit: "put", Results: []Result{{System: "a", Turns: []Turn{turnOf(1, 5, time.Second)}}}}}},
		"no checks": {Scale: &Scale{Watchers: 5}},
	} {
		page, _ := document(t, r)
		if !strings.HasSuffix(page, "</html>") {
			t.Errorf("%s: the page ends with %q", name, page[max(0, len(page)-20):])
		}
		var b bytes.Buffer
		if err := WriteMarkdown(&b, r); err != nil || !strings.HasPrefix(b.String(), "# Performance") {
			t.Errorf("%s: Markdown is %q, %v", name, b.String(), err)
		}
	}
}

func TestProseHasCodeAndStrongWords(t *testing.T) {
	for text, want := range map[string]string{
		"a `b<c` **d** e": "a <code>b&lt;c</code> <strong>d</strong> e",
		"one ` alone":     "one ` alone",
		"two ** of **x":   "two <strong> of </strong>x",
		"`**` is a power": "<code>**</code> is a power",
	} {
		if got := string(prose(text)); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// Where nobody has a number there is a table all the same, which says so.
func TestAScenarioThatAllFailedIn(t *testing.T) {
	failed := Result{Failed: []Failure{{1, "it broke"}}}
	_, root := document(t, pair(failed, failed))
	n := 0
	for cell := range root.Descendants() {
		if cell.Data == "td" && attribute(cell, "class") == "reason" && text(cell) == "– all turns failed" {
			n++
		}
	}
	if n != 2 {
		t.Errorf("of two systems that failed %d are said to have", n)
	}
}
