package linearizable

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Verdict is what is wrong with the answers that a [Load] was given.
type Verdict struct {
	Violations []Violation // of what was promised
	Wrong      []*History  // that are not linearizable
	Histories  int
	Undecided  int    // of them: they took too long to check
	Unanswered int    // requests
	Summary    string // a line about what the load was made of

	load  *Load
	truth *Truth
}

// Judge compares everything that was answered with the truth. Nobody may run any more.
func (l *Load) Judge(ctx context.Context, f *Follower, p Promises) (*Verdict, error) {
	truth, last, err := l.end(ctx, f)
	if err != nil {
		return nil, err
	}
	return &Verdict{
		Violations: truth.Check(append(l.ops(), last), p), Wrong: l.wrong, Histories: len(l.histories), Undecided: l.undecided, Unanswered: l.unanswered(),
		Summary: l.summary(p), load: l, truth: truth,
	}, nil
}

// Errors are a line or two for each thing that is wrong. If there are any, the evidence is written to a report, with the
// logs, by their name.
func (v *Verdict) Errors(logs map[string]string) ([]string, error) {
	var found []string
	if v.Undecided*100 > v.Histories {
		found = append(found, fmt.Sprintf("%d of %d histories took too long to check", v.Undecided, v.Histories))
	}
	if len(v.Wrong)+len(v.Violations) == 0 {
		return found, nil
	}
	r, err := NewReport()
	if err != nil {
		return found, err
	}
	found = append(found, fmt.Sprintf("%d histories are not linearizable, and %d answers break a promise: see %s", len(v.Wrong), len(v.Violations), r.Dir))
	what := v.byHistory()
	for h, text := range what {
		if h == nil {
			found = append(found, text)
			continue
		}
		if r.files == maxReported {
			continue
		}
		name, err := r.Add(text, h, v.truth)
		if err != nil {
			return found, err
		}
		found = append(found, fmt.Sprintf("%s:\n%s", name, text))
	}
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		if err := r.Text(name+".log", logs[name]); err != nil {
			return found, err
		}
	}
	return found, nil
}

// maxReported is of how many histories the evidence is kept.
const maxReported = 10

// byHistory is what is wrong with each history, and with nil what is wrong with none of them.
func (v *Verdict) byHistory() map[*History]string {
	of := map[*Op]*History{}
	for _, h := range v.load.histories {
		for _, o := range h.Ops {
			of[o] = h
		}
	}
	what := map[*History]string{}
	for _, h := range v.Wrong {
		what[h] = "This history is not linearizable.\n"
	}
	for _, one := range v.Violations {
		what[of[one.Op]] += fmt.Sprintln(one)
	}
	return what
}

func (l *Load) unanswered() (n int) {
	for _, o := range l.ops() {
		if o.Response == nil {
			n++
		}
	}
	return n
}

func (l *Load) summary(p Promises) string {
	var answered, linearizable, proxied, checkedAge, stale, failed, open int
	for _, o := range l.ops() {
		switch {
		case o.Response == nil && o.writes():
			open++
		case o.Response == nil:
			failed++
		default:
			answered++
		}
		if o.Response == nil || o.writes() || !o.Proxy {
			continue
		}
		proxied++
		switch {
		case o.linearizable():
			linearizable++
		case o.Stale >= 0:
			stale++
		case !p.Disturbed(o.Call-p.MaxStaleness, o.Return):
			checkedAge++
		}
	}
	return fmt.Sprintf("%d histories (%d undecided), %d requests answered, %d reads failed, %d writes of unknown outcome, %d connections; reads answered by proxies: %d, %d linearizable, %d stale, %d of which the age was checked",
		len(l.histories), l.undecided, answered, failed, open, l.conns.last.Load(), proxied, linearizable, stale, checkedAge)
}
