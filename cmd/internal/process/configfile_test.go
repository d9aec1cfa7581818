package process

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// settable is a set with a flag of each kind.
type settable struct {
	*Flags
	text, password, list string
	on                   bool
	number               int
	bytes                uint64
	rate                 float64
	wait                 time.Duration
	each                 []string
	path                 string
}

var testForm = FileForm{
	Sections: map[string]map[string]string{"security": {"secret": "password", "text": "text"}},
	Ignored:  []string{"proxy"},
}

func newSettable(dir, text string) *settable {
	s := &settable{Flags: NewFlags("test", "TEST"), path: filepath.Join(dir, "x.yaml")}
	s.StringVar(&s.text, "text", "default", "")
	s.StringVar(&s.password, "password", "", "")
	s.StringVar(&s.list, "list", "", "")
	s.BoolVar(&s.on, "on", false, "")
	s.IntVar(&s.number, "number", 5, "")
	s.Uint64Var(&s.bytes, "bytes", 5, "")
	s.Float64Var(&s.rate, "rate", 0, "")
	s.DurationVar(&s.wait, "wait", time.Second, "")
	s.String("config-file", "", "")
	s.Func("each", "", func(e string) error {
		if e == "bad" {
			return errors.New("not this one")
		}
		s.each = append(s.each, e)
		return nil
	})
	s.BoolFunc("missing", "", func(v string) error {
		if v == "true" {
			return ErrNotThere
		}
		return nil
	})
	s.Lists("list", "each")
	s.Secrets("password")
	if err := os.WriteFile(s.path, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return s
}

func TestFileSetsFlagsOfEachKind(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "default false 5 5 0 1s []",
		"# nothing\n":                       "default false 5 5 0 1s []",
		"text: a\non: yes\nnumber: -0x10":   "a true -16 5 0 1s []",
		"text: 0123\nbytes: 1_000":          "0123 false 5 1000 0 1s []",
		"text: [a]\n":                       "x.yaml:1: text must have one value, not a list",
		"list: [a, 1,\n true]\neach: [b,c]": "default a,1,true false 5 5 0 1s [b c]",
		"list:\n- a\n- b\neach: c":          "default a,b false 5 5 0 1s [c]",
		"list: []\neach: []":                "default false 5 5 0 1s []",
		"text:\nwait: ~\nnumber: null":      "default false 5 5 0 1s []",
		"wait: 5s\nrate: 2":                 "default false 5 5 2 5s []",
		"wait: 0\nrate: 2.5":                "default false 5 5 2.5 0s []",
		"each: ''\non: false":               "default false 5 5 0 1s []",
		"security: {text: a, secret: p}":    "a p false 5 5 0 1s []",
		"security:\nproxy: off":             "default false 5 5 0 1s []",
		"{text: a, \"number\": 7}":          "a false 7 5 0 1s []", // JSON is YAML
		"text: &t a\npassword: *t":          "a a false 5 5 0 1s []",
		"missing: false":                    "default false 5 5 0 1s []",
		"text: |\n  two\n  lines\n":         "two\nlines\n false 5 5 0 1s []",
	} {
		f := newSettable(t.TempDir(), text)
		err := f.ReadFile(f.path, testForm)
		got := strings.Join(strings.FieldsFunc(fmt.Sprint(f.text, "|", f.password, "|", f.list, "|"), func(r rune) bool { return r == '|' }), " ")
		got += fmt.Sprint(" ", f.on, " ", f.number, " ", f.bytes, " ", f.rate, " ", f.wait, " ", f.each)
		if err != nil {
			got = strings.ReplaceAll(err.Error(), filepath.Dir(f.path)+"/", "")
		}
		if got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", text, got, want)
		}
	}
}

func TestMistakesInAFileAreNamedWithTheirLines(t *testing.T) {
	for text, want := range map[string][]string{
		"txet: a":                       {":1: unknown key txet: leave it out, or see --help"},
		"number: 1\n\ntxet:\nnmber: 2":  {":3: unknown key txet", ":4: unknown key nmber"},
		"config-file: x":                {":1: unknown key config-file"},
		"text: a\non: true\ntext: b":    {":3: the key text is in line 1 too"},
		"text: a\nsecurity: {text: b}":  {":2: security.text is --text, as is line 1: remove one"},
		"security: {txet: b}":           {":1: unknown key security.txet"},
		"security: here":                {":1: security must have keys below it: secret, text"},
		"security: [here]":              {":1: security must have keys below it"},
		"number: many":                  {":1: number must be a whole number"},
		"number: \"7\"":                 {":1: number must be a whole number"},
		"number: 1e6":                   {":1: number must be a whole number"},
		"number: 99999999999999999999":  {":1: number must be a whole number"},
		"bytes: -1":                     {`:1: bytes has the invalid value "-1": give a whole number`},
		"bytes: 64MB":                   {":1: bytes must be a whole number"},
		"on: maybe\nrate: fast":         {":1: on must be true or false", ":2: rate must be a number"},
		"on: \"true\"":                  {":1: on must be true or false, without quotes"},
		"on: 1":                         {":1: on must be true or false"},
		"wait: 5":                       {":1: wait must be a duration with its unit, as in 5s"},
		"wait: soon":                    {`:1: wait has the invalid value "soon": give a duration with its unit, as in 5s`},
		"wait: [5s]":                    {":1: wait must have one value, not a list"},
		"text: {a: b}":                  {":1: text must have a value, and no keys below it"},
		"text: {}":                      {":1: text must have a value, and no keys below it"},
		"list: [a, [b]]":                {":1: list must be a list of plain values"},
		"list: [a, ]\neach: [a, ~]":     {":2: each must be a list of plain values"},
		"each:\n- a\n- bad":             {`:2: each has the invalid value "bad": not this one`},
		"missing: true":                 {":1: weir does not have missing yet, leave it out"},
		"- a":                           {":1: it must be keys with values"},
		"just words":                    {":1: it must be keys with values"},
		"text: a\ntext: b: c":           {":2: it is not YAML: mapping values are not allowed in this context"},
		"text: a\n---\ntext: b":         {": there is a second document"},
		"text: \"a":                     {"it is not YAML: found unexpected end of stream"},
		"text: *secret":                 {": it is not YAML: unknown anchor … referenced"},
		"password: !!float secret":      {": it is not YAML: "},
		"password: [secret]":            {":1: password must have one value, not a list"},
		"password:secret":               {":1: it must be keys with values"},
		"text: a\npassword: {secret: 1": {"it is not YAML"},
	} {
		f := newSettable(t.TempDir(), text)
		errs := Each(f.ReadFile(f.path, testForm))
		if len(errs) != len(want) {
			t.Errorf("%q: got %v", text, errs)
			continue
		}
		for i, err := range errs {
			message := err.Error()
			if !strings.HasPrefix(message, f.path) || !strings.Contains(message, want[i]) || strings.ContainsAny(message, "\n") || strings.Contains(message, "secret") && !strings.Contains(text, "security") {
				t.Errorf("%q: got %v, want %s", text, err, want[i])
			}
		}
	}
	f := newSettable(t.TempDir(), "")
	if err := f.ReadFile(f.path+"none", testForm); err == nil || !strings.Contains(err.Error(), "read --config-file: open") {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsGivenCountsMoreThanTheFileAndItsMistakesAreToldAllTheSame(t *testing.T) {
	f := newSettable(t.TempDir(), "text: file\nlist: file\nnumber: 7\nwait: 5s\n")
	if err := f.Parse([]string{"--text=arg"}, []string{"TEST_LIST=env", "TEST_TEXT=env", "TEST_WAIT="}); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadFile(f.path, FileForm{}); err != nil {
		t.Fatal(err)
	}
	if f.text != "arg" || f.list != "env" || f.number != 7 || f.wait != 5*time.Second || !f.Given("number") {
		t.Errorf("got %+v", f)
	}
	err := f.Locate(errors.Join(errors.New("--text=arg is not possible"), errors.New("--number is too much for --wait"), errors.New("else")))
	var told []string
	for _, e := range Each(err) {
		told = append(told, strings.TrimPrefix(e.Error(), f.path))
	}
	if !slices.Equal(told, []string{"--text=arg is not possible", ":3: --number is too much for --wait", "else"}) {
		t.Errorf("got %q", told)
	}
	g := newSettable(t.TempDir(), "number: many")
	if err := errors.Join(g.Parse([]string{"--number=1"}, nil), g.ReadFile(g.path, FileForm{})); err == nil {
		t.Error("a wrong value that does not count was taken")
	}
}

func TestWholeNumbersAreNanosecondsWhereTheFormSaysSo(t *testing.T) {
	f := newSettable(t.TempDir(), "wait: 60000000000")
	if err := f.ReadFile(f.path, FileForm{Nanoseconds: true}); err != nil || f.wait != time.Minute {
		t.Errorf("got %v, %v", f.wait, err)
	}
}

// FuzzConfigFile: whatever is in a file, each mistake is one line without anything of a password, and without a mistake each flag that the
// file does not name has its default.
func FuzzConfigFile(f *testing.F) {
	for _, text := range []string{
		"text: a\non: yes\nnumber: 1\nwait: 5s", "list: [a, b]\neach:\n- x\n- y", "security: {secret: p@ss, text: b}", "{\"a\": [1, {}]}", "a: &x [*x]", "<<: {text: a}\ntext: b",
		"text: a\n---\nb: c", "? [a]\n: b", "password: !!float p@ss", "password: *p@ss", "password: !p@ss x", "\"p", "text: \t", "%YAML 1.1\n---\ntext: a", "wait: .nan", "rate: .inf", "number: 1_0", "text: 2020-01-01",
	} {
		f.Add(text)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		s := newSettable(dir, text)
		err := s.ReadFile(s.path, testForm)
		for _, e := range Each(err) {
			if !strings.HasPrefix(e.Error(), s.path+":") || strings.ContainsAny(e.Error(), "\n") {
				t.Errorf("%q: %q", text, e)
			}
			if strings.Contains(e.Error(), "p@ss") && strings.Contains(text, "password: ") && !strings.Contains(e.Error(), "unknown key") {
				t.Errorf("%q: %q", text, e)
			}
		}
		if err != nil {
			return
		}
		s.VisitAll(func(fl *flag.Flag) {
			if !s.Given(fl.Name) && fl.Value.String() != fl.DefValue {
				t.Errorf("%q: --%s is %s", text, fl.Name, fl.Value)
			}
		})
	})
}
