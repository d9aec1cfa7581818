package report

import (
	"fmt"
	"strings"
)

// Outcome is what became of an Aim.
type Outcome struct {
	Scenario *Scenario
	Aim      Aim
	Reached  Number
	Verdict  Verdict
	// Reason is why it is undecided, in words that are shown as they are: a server may have said them.
	Reason string
	// Why is the aim's, "" if it is met.
	Why string
}

// Verdict is whether an aim was reached. An aim is met or missed by the median of the turns, if more than three quarters of
// the turns agree with it: all of three, four of five. If they do not, the machine has decided as much as the system has. If a
// turn failed, of the system or of the one that the ratio is to, nobody knows what it would have said: those that did not fail are
// not a fair sample.
type Verdict string

// The verdicts.
const (
	Met       Verdict = "met"
	Missed    Verdict = "missed"
	Undecided Verdict = "undecided" // the turns disagree, one failed, or there is no number
)

// Outcomes are what became of the aims of all systems of the report, in the order of the scenarios, those of one kind together.
func (r *Report) Outcomes() []Outcome {
	var outcomes []Outcome
	for _, s := range r.byKind() {
		outcomes = append(outcomes, r.outcomes(s)...)
	}
	return outcomes
}

// outcomes are those of one scenario.
func (r *Report) outcomes(s *Scenario) []Outcome {
	var outcomes []Outcome
	for _, aim := range s.Aims {
		if r.system(aim.System) != nil {
			outcomes = append(outcomes, r.outcome(s, aim))
		}
	}
	return outcomes
}

func (r *Report) outcome(s *Scenario, aim Aim) Outcome {
	values, missing := r.values(s, aim.System, aim.Measure)
	o := Outcome{Scenario: s, Aim: aim, Reached: numberOf(values, missing), Verdict: Undecided, Why: aim.Why}
	if !o.Reached.Known() {
		o.Reason, o.Why = o.Reached.Missing, ""
		return o
	}
	met := 0
	for _, v := range values {
		if aim.metBy(v) {
			met++
		}
	}
	reached := aim.metBy(o.Reached.Median)
	agree := met
	if !reached {
		agree = len(values) - met
	}
	switch o.Reason = r.turnsFailed(s, aim); {
	case o.Reason != "":
	case 4*agree <= 3*len(values):
		o.Reason = fmt.Sprintf("%d of %d turns meet it", met, len(values))
	case reached:
		o.Verdict, o.Why = Met, ""
	default:
		o.Verdict = Missed
	}
	return o
}

// turnsFailed says which of the turns that an aim is about failed; "" if none did.
func (r *Report) turnsFailed(s *Scenario, aim Aim) string {
	if why := s.Result(aim.System).turnsFailed(); why != "" {
		return why
	}
	if aim.Measure.ratioOf() == "" {
		return ""
	}
	if why := s.Result(r.Base()).turnsFailed(); why != "" {
		return "of " + r.Base() + ": " + why
	}
	return ""
}

// turnsFailed says how many turns failed, and why the first did; "" if none did.
func (r *Result) turnsFailed() string {
	if r == nil || len(r.Failed) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %s failed: %s", len(r.Failed), plural(len(r.Failed)+len(r.Turns), "turn"), brief(r.Failed[0].Reason))
}

// brief is the beginning of the first line of a text.
func brief(text string) string {
	const most = 120
	line, _, more := strings.Cut(text, "\n")
	if runes := []rune(line); len(runes) > most {
		line, more = string(runes[:most]), true
	}
	if more {
		line += " …"
	}
	return line
}

func (a Aim) metBy(v float64) bool {
	if a.AtLeast {
		return v >= a.Bound
	}
	return v <= a.Bound
}
