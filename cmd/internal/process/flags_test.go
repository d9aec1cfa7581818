package process

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func parse(args, environ []string) (*Flags, string, error) {
	f := NewFlags("test", "ETCD")
	dir := f.String("data-dir", "default", "")
	f.Bool("debug", false, "")
	f.Bool("socket-reuse-port", false, "") // its variable looks like a service link
	f.Foreign("ETCD_VERSION")
	err := f.Parse(args, environ)
	return f, *dir, err
}

func TestTheCommandLineWinsOverTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		args, environ []string
		want          string
		given         bool
	}{
		{nil, nil, "default", false},
		{nil, []string{"ETCD_DATA_DIR=env"}, "env", true},
		{[]string{"--data-dir=arg"}, []string{"ETCD_DATA_DIR=env"}, "arg", true},
		{[]string{"-data-dir", "arg"}, nil, "arg", true},
		{nil, []string{"ETCD_DATA_DIR="}, "default", false},
		{nil, []string{"DATA_DIR=x", "ETCDCTL_API=3", "PATH=/bin", "ETCD_VERSION=3.7"}, "default", false},
		{nil, []string{"ETCD_SERVICE_HOST=10.0.0.1", "ETCD_PORT_2379_TCP_ADDR=10.0.0.1", "ETCD_PORT=tcp://10.0.0.1", "ETCD_CLIENT_SERVICE_HOST=10.0.0.1"}, "default", false},
	} {
		f, dir, err := parse(c.args, c.environ)
		if err != nil || dir != c.want || f.Given("data-dir") != c.given {
			t.Errorf("%v %v: %q, given %v, %v", c.args, c.environ, dir, f.Given("data-dir"), err)
		}
	}
}

func TestWhatIsMisspeltIsRefusedInOneLine(t *testing.T) {
	for _, c := range []struct {
		args, environ []string
		want          string
	}{
		{[]string{"--data-dri=x"}, nil, "--data-dri"},
		{[]string{"data"}, nil, `"data"`},
		{nil, []string{"ETCD_DATA_DRI=x"}, "ETCD_DATA_DRI"},
		{nil, []string{"ETCD_DEBUG=maybe"}, "ETCD_DEBUG"},
		{nil, []string{"ETCD_SOCKET_REUSE_PORT=maybe"}, "ETCD_SOCKET_REUSE_PORT"},
		{[]string{"--experimental-data-dir=x"}, nil, "it is --data-dir"},
		{[]string{"--debug=maybe"}, nil, "--debug"},
	} {
		_, _, err := parse(c.args, c.environ)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v %v: %v", c.args, c.environ, err)
		}
	}
}

func TestErrorOfAnUnreadableValueSaysHowToWriteIt(t *testing.T) {
	for _, c := range []struct{ flag, value, want string }{
		{"timeout", "5", "give a duration with its unit, as in 5s"},
		{"timeout", "5 -x: parse error", "give a duration with its unit, as in 5s"},
		{"int", "64MB", "give a whole number without a unit, as in 1048576"},
		{"int64", "1e6", "give a whole number without a unit, as in 1048576"},
		{"uint", "-1", "give a whole number without a unit, as in 1048576"},
		{"uint64", "x", "give a whole number without a unit, as in 1048576"},
		{"int64", "99999999999999999999", "value out of range"},
		{"debug", "maybe", "give true or false"},
		{"own", "x", "not an x"},
	} {
		for _, by := range []struct {
			args, environ []string
			want          string
		}{
			{args: []string{"--" + c.flag + "=" + c.value}, want: fmt.Sprintf("invalid value %q for --%s: %s", c.value, c.flag, c.want)},
			{environ: []string{"ETCD_" + strings.ToUpper(c.flag) + "=" + c.value},
				want: fmt.Sprintf("environment variable ETCD_%s has the invalid value %q: %s", strings.ToUpper(c.flag), c.value, c.want)},
		} {
			f := NewFlags("test", "ETCD")
			f.Duration("timeout", 0, "")
			f.Int("int", 0, "")
			f.Int64("int64", 0, "")
			f.Uint("uint", 0, "")
			f.Uint64("uint64", 0, "")
			f.Bool("debug", false, "")
			f.Func("own", "", func(string) error { return errors.New("not an x") })
			err := f.Parse(by.args, by.environ)
			if err == nil || strings.Replace(err.Error(), "for flag --", "for --", 1) != by.want {
				t.Errorf("got  %v\nwant %s", err, by.want)
			}
		}
	}
}

func TestAllMistakesInTheEnvironmentAreTold(t *testing.T) {
	_, _, err := parse(nil, []string{"ETCD_DEBUG=maybe", "ETCD_DATA_DRI=x", "ETCD_DATA_DIR=d", "ETCD_SOCKET_REUSE_PORT=maybe"})
	var told []string
	for _, e := range Each(err) {
		told = append(told, strings.Fields(e.Error())[2])
	}
	if !slices.Equal(told, []string{"ETCD_DATA_DRI", "ETCD_DEBUG", "ETCD_SOCKET_REUSE_PORT"}) {
		t.Errorf("got %q", told)
	}
}

func TestFlagsWithoutEffectAreAcceptedAndTold(t *testing.T) {
	f := NewFlags("test", "ETCD")
	f.Uint("max-wals", 5, "")
	f.Bool("pre-vote", true, "")
	f.String("data-dir", "", "")
	f.NoEffect("max-wals", "there are none")
	f.NoEffect("pre-vote", "always on")
	if err := f.Parse([]string{"--data-dir=x"}, []string{"ETCD_MAX_WALS=7"}); err != nil {
		t.Fatal(err)
	}
	if got := f.Ineffective(); len(got) != 1 || got["max-wals"] != "there are none" {
		t.Errorf("got %v", got)
	}
}

func TestVersionTextBeginsAsEtcds(t *testing.T) {
	lines := strings.Split(VersionText("core"), "\n")
	for i, want := range []string{"etcd Version: 3.7.", "Git SHA: ", "Go Version: go1.", "Go OS/Arch: ", "weir core Version: "} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d is %q, want %q…", i, lines[i], want)
		}
	}
}

func TestUnknownVariablesAreToldOfWhereTheyAreTolerated(t *testing.T) {
	f := NewFlags("core", "ETCD")
	f.Foreign("ETCD_VERSION")
	f.TolerateUnknown()
	f.String("data-dir", "", "")
	if err := f.Parse(nil, []string{"ETCD_VERSION=3.7", "ETCD_ON_K8S=true", "ETCD_DATA_DIR=x", "ETCD_PORT=tcp://10.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	if got := f.Unknown(); !slices.Equal(got, []string{"ETCD_ON_K8S"}) {
		t.Fatalf("unknown are %q", got)
	}
}

func TestUsageHasFlagsByGroupAndLeavesOutThoseOfWhichNothingIsSaid(t *testing.T) {
	f := NewFlags("x", "X")
	f.String("other", "", strings.Repeat("word ", 30))
	f.String("shown", "value", "What it is.")
	f.Bool("hidden", false, "")
	f.GroupAs([]Group{{"First", []string{"shown"}}, {"Second", []string{"other"}}})
	var out strings.Builder
	f.Usage(&out, "Usage: x\n")
	want := "Usage: x\n\nFirst:\n  --shown 'value'\n    What it is.\n\nSecond:\n  --other ''\n" +
		"    " + strings.Repeat("word ", 18) + "word\n    " + strings.Repeat("word ", 10) + "word\n"
	if out.String() != want {
		t.Errorf("got %s", out.String())
	}
	if names := f.Ungrouped(); names != nil {
		t.Errorf("not in exactly one group: %q", names)
	}
	f.GroupAs([]Group{{"First", []string{"shown", "hidden", "gone"}}, {"Second", []string{"shown"}}})
	if names := f.Ungrouped(); !slices.Equal(names, []string{"hidden", "gone", "other", "shown"}) {
		t.Errorf("not in exactly one group: %q", names)
	}
}

func TestOperandsAreTakenOnlyByCommandsThatHaveThem(t *testing.T) {
	f := NewFlags("test", "")
	dir, debug := f.String("data-dir", "default", ""), f.Bool("debug", false, "")
	operands, err := f.ParseOperands([]string{"--debug", "a", "--data-dir", "x", "b"})
	if err != nil || !slices.Equal(operands, []string{"a", "b"}) || *dir != "x" || !*debug {
		t.Errorf("%v, %v, %q, %v", operands, err, *dir, *debug)
	}
	if _, err := f.ParseOperands([]string{"a", "--nonsense"}); err == nil || !strings.Contains(err.Error(), "unknown flag --nonsense") {
		t.Errorf("got %v", err)
	}
	if _, err := f.ParseOperands([]string{"a", "--help"}); !errors.Is(err, ErrHelp) {
		t.Errorf("got %v", err)
	}
	if _, _, err := parse([]string{"--debug", "a"}, nil); err == nil || !strings.Contains(err.Error(), `unexpected argument "a"`) {
		t.Errorf("got %v", err)
	}
}

func TestHelpAndVersionAreWordsToo(t *testing.T) {
	for words, want := range map[string]string{"help": "--help", "version": "--version", "help me": "help me", "": "", "--version": "--version", "other": "other"} {
		if got := strings.Join(WordsAsFlags(strings.Fields(words)), " "); got != want {
			t.Errorf("%q: got %q, want %q", words, got, want)
		}
	}
}

func TestWhatIsNoFlagIsToldOfWithoutItsValue(t *testing.T) {
	for _, argument := range []string{"---password=s3cret", "password=s3cret", "-=s3cret"} {
		f := NewFlags("test", "TEST")
		f.String("password", "", "")
		if err := f.Parse([]string{argument}, nil); err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "=…") {
			t.Errorf("%s: got %v", argument, err)
		}
	}
}
