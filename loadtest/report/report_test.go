package report

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the tests find into testdata")

// example is a run of six systems, one of which ran already, and eight scenarios, with failed turns and what was not supported.
func example(t *testing.T) *Report {
	t.Helper()
	f, err := os.Open("testdata/report.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAReportIsTheSameAfterItWasWrittenAndRead(t *testing.T) {
	r := example(t)
	var b bytes.Buffer
	if err := WriteJSON(&b, r); err != nil {
		t.Fatal(err)
	}
	again, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r, again) {
		t.Error("the report that was read is not the one that was written")
	}
}

func TestWhatIsNoReportIsNotRead(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                 {``, "EOF"},
		"half a report":           {`{"systems": [`, "unexpected EOF"},
		"a field that is unknown": {`{"sistems": []}`, "unknown field"},
		"more than a report":      {`{} {}`, "more after it"},
		"a system twice":          {`{"systems": [{"name": "a"}, {"name": "a"}]}`, "twice"},
		"two bases":               {`{"systems": [{"name": "a", "base": true}, {"name": "b", "base": true}]}`, "2 systems are the base"},
		"a scenario twice":        {`{"scenarios": [{"name": "put"}, {"name": "put"}]}`, "twice"},
		"results of nobody":       {`{"scenarios": [{"name": "put", "results": [{"system": "a"}]}]}`, "no system of the report"},
		"two results":             {`{"systems": [{"name": "a"}], "scenarios": [{"name": "put", "results": [{"system": "a"}, {"system": "a"}]}]}`, "two results"},
	} {
		if _, err := Read(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}

// full is a writer that has no room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestAnErrorOfWritingIsReturned(t *testing.T) {
	r := example(t)
	for name, err := range map[string]error{"JSON": WriteJSON(full{}, r), "Markdown": WriteMarkdown(full{}, r), "HTML": WriteHTML(full{}, r)} {
		if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
