package process

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Flags is a flag set whose flags may also be given as environment variables, --data-dir as PREFIX_DATA_DIR, and in a file, see
// ReadFile. The command line wins, then the environment. What is misspelt is refused, since a flag that is silently not there may mean an
// empty store; so are variables with the prefix that name no flag, unless TolerateUnknown was called.
type Flags struct {
	*flag.FlagSet
	command  string
	prefix   string
	foreign  []string          // variables
	suspect  string            // how variables begin
	noEffect map[string]string // by flag, why
	lists    []string          // flags that a file may have a list for
	secrets  []string          // flags whose values are not for logs
	fromFile map[string]string // by flag that a file has set, where
	groups   []Group

	tolerant bool
	unknown  []string // variables that were tolerated
}

// NewFlags makes an empty set. prefix is that of the variables, without the last underscore.
func NewFlags(name, prefix string) *Flags {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard) // the caller prints the one line
	return &Flags{FlagSet: set, command: name, prefix: prefix, noEffect: map[string]string{}, fromFile: map[string]string{}}
}

// Foreign names variables that have the prefix and are of somebody else: they are neither refused nor taken for a flag's.
func (f *Flags) Foreign(variables ...string) { f.foreign = append(f.foreign, variables...) }

// TolerateUnknown has variables with the prefix that name no flag told by Unknown, and not refused.
func (f *Flags) TolerateUnknown() { f.tolerant = true }

// Unknown returns, after Parse, the variables with the prefix that name no flag.
func (f *Flags) Unknown() []string { return f.unknown }

// NoEffect says of a flag why it changes nothing here. It is accepted, and Ineffective tells of it.
func (f *Flags) NoEffect(name, why string) { f.noEffect[name] = why }

// Ineffective returns why for each flag that was given and has no effect.
func (f *Flags) Ineffective() map[string]string {
	given := map[string]string{}
	f.Visit(func(fl *flag.Flag) {
		if why, ok := f.noEffect[fl.Name]; ok {
			given[fl.Name] = why
		}
	})
	return given
}

// Lists names flags that take several values, separated by commas or given several times: a file may have a list for them.
func (f *Flags) Lists(names ...string) { f.lists = append(f.lists, names...) }

// Secrets names flags whose values no error may show.
func (f *Flags) Secrets(names ...string) { f.secrets = append(f.secrets, names...) }

func (f *Flags) isSecret(name string) bool { return slices.Contains(f.secrets, name) }

// Locate says of each of the errors that are joined in err where a file has the flag that it names first, if one has. Of equal ones it
// leaves one.
func (f *Flags) Locate(err error) error {
	var located Mistakes
	seen := map[string]bool{}
	for _, err := range Each(err) {
		if seen[err.Error()] {
			continue
		}
		seen[err.Error()] = true
		for _, m := range flagInText.FindAllStringSubmatch(err.Error(), -1) {
			if at, ok := f.fromFile[m[1]]; ok {
				if !strings.HasPrefix(err.Error(), at) {
					err = fmt.Errorf("%s: %w", at, err)
				}
				break
			}
		}
		located.Add(err)
	}
	return located.Err()
}

var flagInText = regexp.MustCompile(`--([a-z][a-z0-9-]*)`)

// Suspect refuses variables that begin with start, although they do not have the prefix: they are probably misspelt.
func (f *Flags) Suspect(start string) { f.suspect = start }

// ErrHelp is returned by Parse when help was asked for.
var ErrHelp = flag.ErrHelp

// Parse reads the arguments and the environment (as of os.Environ). Its error is of the first mistake in the arguments, or joins all in
// the environment.
func (f *Flags) Parse(args, environ []string) error {
	if err := f.ParseArguments(args); err != nil {
		return err
	}
	return f.ParseEnvironment(environ)
}

// ParseArguments reads the arguments of a command that takes only flags. Its error is of the first mistake.
func (f *Flags) ParseArguments(args []string) error {
	operands, err := f.ParseOperands(args)
	if err == nil && len(operands) > 0 {
		err = fmt.Errorf("unexpected argument %q: flags are given as --name=value", nameOnly(operands[0]))
	}
	return err
}

// ParseOperands reads the arguments of a command that takes some besides its flags, and returns those. Flags may be before and
// behind them. The environment does not count.
func (f *Flags) ParseOperands(args []string) (operands []string, err error) {
	for {
		if err := f.FlagSet.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, ErrHelp
			}
			return nil, f.explain(err)
		}
		if f.NArg() == 0 {
			return operands, nil
		}
		operands, args = append(operands, f.Arg(0)), f.Args()[1:]
	}
}

// ParseEnvironment sets flags from variables, but those that are already given. Its error joins all mistakes.
func (f *Flags) ParseEnvironment(environ []string) error {
	var wrong Mistakes
	byVariable := map[string]*flag.Flag{}
	f.VisitAll(func(fl *flag.Flag) { byVariable[f.Variable(fl.Name)] = fl })
	for _, pair := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(pair, "=")
		if slices.Contains(f.foreign, name) {
			continue
		}
		fl := byVariable[name]
		if fl == nil {
			wrong.Add(f.checkUnknown(name))
			continue
		}
		if value == "" || f.Given(fl.Name) {
			continue // etcd takes an empty variable for none
		}
		if err := f.Set(fl.Name, value); err != nil {
			wrong.Addf("environment variable %s has the invalid value %q: %w", name, value, howTo(fl, err))
		}
	}
	return wrong.Err()
}

// checkUnknown refuses, or remembers, a variable that names no flag, if it was meant to.
func (f *Flags) checkUnknown(variable string) error {
	switch {
	case serviceLink.MatchString(variable):
		return nil
	case strings.HasPrefix(variable, f.prefix+"_") && f.tolerant:
		f.unknown = append(f.unknown, variable)
		return nil
	case strings.HasPrefix(variable, f.prefix+"_"):
		return fmt.Errorf("environment variable %s names no flag: unset it, or see --help", variable)
	case f.suspect != "" && strings.HasPrefix(variable, f.suspect):
		return fmt.Errorf("environment variable %s looks like one of %s_…, and names no flag: unset it", variable, f.prefix)
	}
	return nil
}

// explain writes an error of the flag package as one line that says what to do.
func (f *Flags) explain(err error) error {
	if m := unreadableValue.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("invalid value %s for --%s: %w", m[1], m[2], howTo(f.Lookup(m[2]), errors.New(m[3])))
	}
	if flag, ok := strings.CutPrefix(err.Error(), "bad flag syntax: "); ok {
		return fmt.Errorf("malformed flag %q: flags are given as --name=value", nameOnly(flag))
	}
	text := strings.Replace(err.Error(), " -", " --", 1) // as etcd's users write flags
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: --"); ok {
		if stable, ok := strings.CutPrefix(name, "experimental-"); ok && f.Lookup(stable) != nil {
			return fmt.Errorf("unknown flag --%s: since etcd 3.7 it is --%s", name, stable)
		}
		return fmt.Errorf("unknown flag --%s: see --help", name)
	}
	if m := notThereValue.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("weir does not have --%s yet, leave it out", m[1])
	}
	return errors.New(text)
}

// unreadableValue is what the flag package says when a value is not of the flag's type.
var unreadableValue = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for (?:flag )?-([a-z0-9-]+): (parse error|value out of range)$`)

// howTo says how a value of fl is written that the flag package could not read, of which it says no more than "parse error".
func howTo(fl *flag.Flag, err error) error {
	getter, ok := fl.Value.(flag.Getter)
	if !ok || err.Error() != "parse error" {
		return err
	}
	switch getter.Get().(type) {
	case time.Duration:
		return errors.New("give a duration with its unit, as in 5s")
	case int, int64, uint, uint64:
		return errors.New("give a whole number without a unit, as in 1048576")
	case bool:
		return errors.New("give true or false")
	}
	return err
}

// nameOnly is an argument that nobody understands without its value, which may be a password.
func nameOnly(argument string) string {
	if name, _, ok := strings.Cut(argument, "="); ok {
		return name + "=…"
	}
	return argument
}

// ErrNotThere is what a flag's own function returns for a value that asks for something that is not there yet.
var ErrNotThere = errors.New("weir does not have this yet")

// notThereValue is what the flag package makes of ErrNotThere.
var notThereValue = regexp.MustCompile(`^invalid .* -*([a-z-]+): ` + ErrNotThere.Error())

// serviceLink matches what Kubernetes puts into the environment of every container for each service
// (ETCD_SERVICE_HOST, ETCD_CLIENT_PORT_2379_TCP). It is meant for nobody in particular.
var serviceLink = regexp.MustCompile(`^[A-Z0-9_]+_(SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// Variable is the environment variable of a flag.
func (f *Flags) Variable(flagName string) string {
	return f.prefix + "_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// Written returns the flags that are given, and the variables in environ that would set one, as who starts the program writes them.
func (f *Flags) Written(environ []string) (written []string) {
	f.Visit(func(fl *flag.Flag) { written = append(written, "--"+fl.Name) })
	f.VisitAll(func(fl *flag.Flag) {
		if slices.ContainsFunc(environ, func(pair string) bool {
			value, ok := strings.CutPrefix(pair, f.Variable(fl.Name)+"=")
			return ok && value != ""
		}) {
			written = append(written, f.Variable(fl.Name))
		}
	})
	return written
}

// FromFile tells whether a flag was set in a file.
func (f *Flags) FromFile(name string) bool { return f.fromFile[name] != "" }

// Given tells whether a flag was set, on the command line, by its variable or in a file.
func (f *Flags) Given(name string) bool {
	given := false
	f.Visit(func(fl *flag.Flag) { given = given || fl.Name == name })
	return given
}
