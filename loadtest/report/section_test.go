package report

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestASectionIsTheSameAfterItWasWrittenAndRead(t *testing.T) {
	s := &Section{
		Title: "Watches", Started: time.Unix(1e9, 0).UTC(), Command: "go run . bench watch", Text: []string{"What it is."}, Failed: []string{"it rained"},
		Tables: []Table{{Head: []string{"a", "b"}, Words: 1, Rows: [][]string{{"c", "1"}}}},
	}
	var b bytes.Buffer
	if err := s.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	again, err := ReadSection(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, again) {
		t.Errorf("the section that was read is %+v", again)
	}
}

func TestWhatIsNoSectionIsNotRead(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                "no title",
		`{"systems": []}`:   "unknown field",
		`{"title": "a"} []`: "more after it",
		`{"title": "a", "tables": [{"head": ["b"], "rows": [["c", "d"]]}]}`: "has 2 in row 1",
		`{"title": "a", "tables": [{"head": ["b"], "words": 2}]}`:           "has 2 of words",
	} {
		if _, err := ReadSection(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", text, err, want)
		}
	}
}

func TestAPlanThatFailedSaysWhy(t *testing.T) {
	r := example(t)
	r.Scale = &Scale{Failed: "no <core> answered"}
	page, root := document(t, r)
	if strings.Contains(page, "<core>") || !strings.Contains(text(root), "It could not be computed: no <core> answered") {
		t.Error("the page does not say why there is no plan")
	}
	if got := markdownOf(t, r); !strings.Contains(got, "**It could not be computed**: `no <core> answered`") {
		t.Error("Markdown does not say why there is no plan")
	}
}

func TestPlansSayWhatIsScarceFirst(t *testing.T) {
	r := example(t)
	r.Scale.Plans[0].Levels[0].Limit = "one goroutine"
	if got := markdownOf(t, r); !strings.Contains(got, "one goroutine") {
		t.Error("Markdown does not say what proxies have too little of first")
	}
}

func TestAPlanThatIsNotValidSaysSo(t *testing.T) {
	r := example(t)
	r.Scale.Invalid = "the machine had no rest"
	r.Scale.Checks[0].Invalid = true
	page, _ := document(t, r)
	for name, text := range map[string]string{"page": page, "Markdown": markdownOf(t, r)} {
		if !strings.Contains(text, "the machine had no rest") || !strings.Contains(text, "not valid") {
			t.Errorf("the %s does not say that plans and checks are not valid", name)
		}
	}
}
