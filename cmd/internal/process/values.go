package process

import (
	"flag"
	"slices"
)

// Func is flag.FlagSet's, of a flag that can tell what it was set to, for Values.
func (f *Flags) Func(name, usage string, set func(string) error) {
	f.Var(&function{set: set}, name, usage)
}

// function is the value of a flag that calls a function.
type function struct {
	set   func(string) error
	texts string
}

// String is part of flag.Value.
func (f *function) String() string { return f.texts }

// Set is part of flag.Value.
func (f *function) Set(text string) error {
	f.texts += text + "\x00"
	return f.set(text)
}

// Values are the flags that were given, by name, each as a text that is the same as long as its value is. Some are secrets.
func (f *Flags) Values() map[string]string {
	values := map[string]string{}
	f.Visit(func(fl *flag.Flag) { values[fl.Name] = fl.Value.String() })
	return values
}

// Changed are the names of the flags that have another value in b than in a, as Values tells them, in order.
func Changed(a, b map[string]string) (names []string) {
	for name, value := range a {
		if other, ok := b[name]; !ok || other != value {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
