package coretest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// crashMember is crash N, or crash N at STEP.
func (p *play) crashMember(words []string) error {
	if len(words) == 3 && words[1] == "at" {
		m, err := p.member(words[0])
		if !slices.Contains(steps, step(words[2])) {
			return fmt.Errorf("there is no step %s", words[2])
		}
		if err == nil {
			p.crashAt[m.id] = step(words[2])
		}
		return err
	}
	return each(func(_ *play, m *Member) error {
		delete(p.crashAt, m.id)
		m.crash()
		return nil
	})(p, words)
}

func (p *play) awaitDown(m *Member) error {
	return p.await(fmt.Sprintf("%d is down", m.id), func() bool { return !m.isRunning })
}

func (p *play) awaitGone(m *Member) error {
	return p.await(fmt.Sprintf("%d is gone", m.id), func() bool { return m.gone != "" })
}

func (p *play) startMember(m *Member) error {
	if m.isRunning || m.gone != "" {
		return fmt.Errorf("it runs, or is gone: %s", m.gone)
	}
	m.start()
	return nil
}

func (p *play) isolate(m *Member) error {
	for id := range p.members {
		if id != m.id {
			p.network.cut[link{m.id, id}], p.network.cut[link{id, m.id}] = true, true
		}
	}
	return nil
}

// partition is partition 1 2 | 3 4 5: what was cut before is not any more.
func (p *play) partition(words []string) error {
	clear(p.network.cut)
	group, groups := 0, map[uint64]int{}
	for _, w := range words {
		if w == "|" {
			group++
			continue
		}
		m, err := p.member(w)
		if err != nil {
			return err
		}
		groups[m.id] = group
	}
	for a, of := range groups {
		for b, other := range groups {
			if of != other {
				p.network.cut[link{a, b}] = true
			}
		}
	}
	return nil
}

// parseLink reads A > B, or A B, or nothing; a member may be *.
func parseLink(words []string) (from, to uint64, isBoth bool, err error) {
	isBoth = !slices.Contains(words, ">")
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == ">" })
	if len(words) == 0 {
		return 0, 0, false, nil
	}
	if len(words) != 2 {
		return 0, 0, false, errors.New("a link is A > B, or A B for both directions")
	}
	for i, id := range []*uint64{&from, &to} {
		if words[i] == "*" {
			continue
		}
		if *id, err = strconv.ParseUint(words[i], 10, 64); err != nil {
			return 0, 0, false, err
		}
	}
	return from, to, isBoth, nil
}

func (p *play) cutLink(words []string) error {
	from, to, isBoth, err := parseLink(words)
	if err == nil && (from == 0 || to == 0) {
		err = errors.New("between which members")
	}
	p.network.cut[link{from, to}] = true
	if isBoth {
		p.network.cut[link{to, from}] = true
	}
	return err
}

func (p *play) addRule(words []string, holds bool) error {
	if len(words) == 0 {
		return errors.New("which messages")
	}
	kind, ok := raftpb.MessageType_value["Msg"+words[0]]
	if !ok {
		return fmt.Errorf("there is no message %s", words[0])
	}
	from, to, isBoth, err := parseLink(words[1:])
	r := &rule{kind: raftpb.MessageType(kind), from: from, to: to, holds: holds}
	p.network.rules = append(p.network.rules, r)
	if isBoth {
		p.network.rules = append(p.network.rules, &rule{kind: r.kind, from: to, to: from, holds: holds})
	}
	return err
}

// release ends what hold and drop have begun.
func (p *play) release([]string) error {
	rules := p.network.rules
	p.network.rules = nil
	for _, r := range rules {
		r.release(p.Cluster)
	}
	return nil
}

func (p *play) setDisk(words []string) error {
	if len(words) < 2 {
		return errors.New("of which member, how")
	}
	m, err := p.member(words[0])
	if err != nil {
		return err
	}
	switch words[1] {
	case "stuck":
		m.disk.isStuck = true
	case "ok":
		m.unstick()
		m.disk.sync = goodDisk
	case "lies":
		was := m.disk
		m.disk.reverts = &was
	default:
		d, err := time.ParseDuration(words[1])
		m.disk.sync = span{d / 2, d}
		return err
	}
	return nil
}

// setApplier is applier N DURATION.
func (p *play) setApplier(words []string) error {
	if len(words) != 2 {
		return errors.New("of which member, how long")
	}
	m, err := p.member(words[0])
	if err == nil {
		m.applying, err = time.ParseDuration(words[1])
	}
	return err
}

// breakMember breaks a rule of members, to show that it is noticed.
func (p *play) breakMember(words []string) error {
	if len(words) != 2 {
		return errors.New("which member, how")
	}
	m, err := p.member(words[0])
	if err != nil {
		return err
	}
	switch words[1] {
	case "reads":
		m.breaks.reads = true
	case "appends":
		m.breaks.appends = true
	default:
		return fmt.Errorf("there is no way to break %s", words[1])
	}
	return nil
}
