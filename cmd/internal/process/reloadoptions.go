package process

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Options is the part of a Reloader that reads a program's options again, as at the start: the same arguments and environment, and
// the configuration file as it is now. What can change while the program runs does, all of it or nothing; of the rest it is
// said, once, that it needs a restart.
type Options struct {
	// Live are the flags that can change.
	Live []string
	// Read reads the options. values are those of all flags that are given. apply has those of the flags count that it is told.
	Read func() (values map[string]string, apply func(changed []string) error, err error)

	to      *Reloader
	started map[string]string // values at the start
	now     map[string]string // of what was applied last
	steady  Steady
	refused error
	told    []string // of which it was said that they need a restart
}

// optionsPart is what they are called in logs and metrics.
const optionsPart = "options"

// AddOptions adds the options, whose values at the start are given.
func (r *Reloader) AddOptions(o Options, values map[string]string) {
	o.to, o.started, o.now = r, values, values
	o.steady.Start(fmt.Sprint(values))
	r.Add(optionsPart, o.look)
}

func (o *Options) look(forced bool) error {
	values, apply, err := o.Read()
	found := fmt.Sprint(values)
	if err != nil {
		found = err.Error()
	}
	// What was refused may depend on other files, which may be right by now.
	again := err == nil && o.refused != nil && o.steady.Judged(found)
	if !o.steady.Judge(forced, found) && !again {
		return o.refused
	}
	was := o.refused
	if o.refused = err; err == nil {
		o.refused = o.take(values, apply, was != nil)
	}
	if o.refused != nil {
		o.to.Refused(optionsPart, o.refused)
	}
	return o.refused
}

// take has what is live count. again says that before there was something that could not be used.
func (o *Options) take(values map[string]string, apply func([]string) error, again bool) error {
	isLive := func(name string) bool { return slices.Contains(o.Live, name) }
	changed := slices.DeleteFunc(Changed(o.now, values), func(name string) bool { return !isLive(name) })
	if len(changed) > 0 {
		if err := apply(changed); err != nil {
			return err
		}
	}
	if len(changed) > 0 || again {
		o.to.Applied(optionsPart, changed...)
	}
	o.now = maps.Clone(values)
	rest := slices.DeleteFunc(Changed(o.started, values), isLive)
	if len(rest) > 0 && !slices.Equal(rest, o.told) {
		o.to.log.Warn("changed options count only after a restart", "flags", rest)
	}
	o.told = rest
	o.to.awaitRestart(optionsPart, rest)
	return nil
}

// ErrNeedsRestart is for apply, of a change that can be made only by a restart although others of the same flag can be made without.
var ErrNeedsRestart = errors.New("needs a restart")
