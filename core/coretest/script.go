package coretest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"weir/core/consensus"
)

// Script is a scenario that was read from a text; doc.go has the language.
type Script struct {
	members  int
	bounds   consensus.Bounds
	violates string // the invariant that it shows to be broken; empty if none is to be
	lines    []line
}

// line is a command and where it is.
type line struct {
	number int
	words  []string
}

// Parse reads a scenario.
func Parse(text string) (*Script, error) {
	s := new(Script)
	for i, l := range strings.Split(text, "\n") {
		l, _, _ = strings.Cut(l, "#")
		words := strings.Fields(l)
		if len(words) == 0 {
			continue
		}
		var err error
		switch words[0] {
		case "members":
			s.members, err = strconv.Atoi(strings.Join(words[1:], " "))
		case "small-bounds":
			s.bounds = smallBounds
		case "violates":
			s.violates = strings.Join(words[1:], " ")
		default:
			if commands[words[0]] == nil {
				err = fmt.Errorf("there is no command %q", words[0])
			}
			s.lines = append(s.lines, line{i + 1, words})
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if s.members < 1 {
		return nil, errors.New("it does not say how many members there are")
	}
	return s, nil
}

// Run plays the scenario on a new cluster, and then has that converge. The error says what is not as the scenario wants it. The cluster
// has the trace.
func (s *Script) Run(seed uint64) (*Cluster, error) {
	p := &play{Cluster: New(s.members, seed, s.bounds), named: map[string]*Operation{}, installed: map[uint64]int{}}
	for _, l := range s.lines {
		if err := commands[l.words[0]](p, l.words[1:]); err != nil && p.violation == nil {
			return p.Cluster, fmt.Errorf("line %d: %s: %w", l.number, strings.Join(l.words, " "), err)
		}
		if p.violation != nil {
			break
		}
	}
	if p.violation == nil {
		_ = p.converge() // violation has it
	}
	return p.Cluster, s.judge(p.violation)
}

// judge tells whether the outcome is the one that is wanted.
func (s *Script) judge(violation error) error {
	var v *Violation
	switch isViolation := errors.As(violation, &v); {
	case s.violates == "":
		return violation
	case !isViolation:
		return fmt.Errorf("%q held, and should not", s.violates)
	case v.Invariant != s.violates:
		return fmt.Errorf("%q should not hold: %w", s.violates, violation)
	}
	return nil
}

// play is a scenario that is being played.
type play struct {
	*Cluster
	named     map[string]*Operation
	installed map[uint64]int // of how many snapshots of each member the script knows
}

// patience is how long a command waits for what is to come.
const patience = recovery

// commands are those of the language; doc.go says what each does.
var commands = map[string]func(*play, []string) error{
	"run": func(p *play, w []string) error {
		d, err := time.ParseDuration(strings.Join(w, " "))
		if err == nil {
			p.run(d)
		}
		return err
	},
	"elect":    each((*play).elect),
	"campaign": each((*play).campaign),
	"leads":    each((*play).leadsNow),
	"leader":   each((*play).awaitLeader),
	"leaderless": func(p *play, _ []string) error {
		return p.await("nobody leads", func() bool { return p.leader() == nil })
	},
	"put":       (*play).put,
	"get":       (*play).get,
	"write":     func(p *play, w []string) error { return p.begin(w, false) },
	"read":      func(p *play, w []string) error { return p.begin(w, true) },
	"done":      func(p *play, w []string) error { return p.awaitOutcome(w, done) },
	"open":      func(p *play, w []string) error { return p.awaitOutcome(w, open) },
	"waits":     (*play).wantWaiting,
	"nowhere":   (*play).wantNowhere,
	"crash":     (*play).crashMember,
	"down":      each((*play).awaitDown),
	"gone":      each((*play).awaitGone),
	"start":     each((*play).startMember),
	"pause":     each(func(_ *play, m *Member) error { m.isPaused = true; return nil }),
	"resume":    each(func(_ *play, m *Member) error { m.resume(); return nil }),
	"isolate":   each((*play).isolate),
	"partition": (*play).partition,
	"cut":       (*play).cutLink,
	"heal":      func(p *play, _ []string) error { clear(p.network.cut); return nil },
	"lose":      share(func(p *play) *float64 { return &p.network.loss }),
	"double":    share(func(p *play) *float64 { return &p.network.double }),
	"slow":      share(func(p *play) *float64 { return &p.network.slow }),
	"hold":      func(p *play, w []string) error { return p.addRule(w, true) },
	"drop":      func(p *play, w []string) error { return p.addRule(w, false) },
	"release":   (*play).release,
	"disk":      (*play).setDisk,
	"applier":   (*play).setApplier,
	"commit":    each(func(p *play, m *Member) error { m.commitAndCut(); p.run(tick); return nil }),
	"keep":      number(func(p *play) *uint64 { return &p.catchUp }),
	"every":     number(func(p *play) *uint64 { return &p.commitEvery }),
	"installed": each((*play).awaitInstalled),
	"caught-up": each((*play).awaitCaughtUp),
	"sent":      (*play).wantSent,
	"add":       each(func(p *play, m *Member) error { return p.reconfigure(raftpb.ConfChangeAddNode, m) }),
	"learner":   each(func(p *play, m *Member) error { return p.reconfigure(raftpb.ConfChangeAddLearnerNode, m) }),
	"promote":   each(func(p *play, m *Member) error { return p.reconfigure(raftpb.ConfChangeAddNode, m) }),
	"remove":    each(func(p *play, m *Member) error { return p.reconfigure(raftpb.ConfChangeRemoveNode, m) }),
	"ask":       (*play).askChange,
	"hand-over": each((*play).handOver),
	"transfer":  each((*play).transfer),
	"converge":  func(p *play, _ []string) error { return p.converge() },
	"unsafe":    (*play).breakMember,
}

// each makes a command of what is done with each of some members.
func each(do func(*play, *Member) error) func(*play, []string) error {
	return func(p *play, words []string) error {
		if len(words) == 0 {
			return errors.New("with which members")
		}
		for _, w := range words {
			m, err := p.member(w)
			if err == nil {
				err = do(p, m)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// share makes a command that sets how often something happens.
func share(of func(*play) *float64) func(*play, []string) error {
	return func(p *play, words []string) error {
		percent, err := strconv.ParseFloat(strings.TrimSuffix(strings.Join(words, " "), "%"), 64)
		*of(p) = percent / 100
		return err
	}
}

func number(of func(*play) *uint64) func(*play, []string) error {
	return func(p *play, words []string) error {
		n, err := strconv.ParseUint(strings.Join(words, " "), 10, 64)
		*of(p) = n
		return err
	}
}

// member is the one with an id, which is made if there is none.
func (p *play) member(word string) (*Member, error) {
	id, err := strconv.ParseUint(word, 10, 64)
	if err != nil || id == 0 {
		return nil, fmt.Errorf("%q is no member", word)
	}
	if m := p.members[id]; m != nil {
		return m, nil
	}
	return p.add(id), nil
}

func (p *play) await(what string, isSo func() bool) error {
	if p.runUntil(patience, isSo) {
		return nil
	}
	return fmt.Errorf("not so after %v: %s%s", patience, what, p.describe())
}
