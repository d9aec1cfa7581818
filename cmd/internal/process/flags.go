package process

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Flags is a flag set whose flags may also be given as environment variables: --data-dir as PREFIX_DATA_DIR. The
// command line wins. What is misspelt is refused, since a flag that is silently not there may mean an empty
// store; so are variables with the prefix that name no flag.
type Flags struct {
	*flag.FlagSet
	prefix string
}

// NewFlags makes an empty set. prefix is that of the variables, without the last underscore.
func NewFlags(name, prefix string) *Flags {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard) // the caller prints the one line
	return &Flags{FlagSet: set, prefix: prefix}
}

// ErrHelp is returned by Parse when help was asked for.
var ErrHelp = flag.ErrHelp

// Parse reads the arguments and the environment (as of os.Environ).
func (f *Flags) Parse(args, environ []string) error {
	if err := f.FlagSet.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return ErrHelp
		}
		return fmt.Errorf("%s: see --help", flagError(err))
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: flags are given as --name=value", f.Arg(0))
	}
	byVariable := map[string]*flag.Flag{}
	f.VisitAll(func(fl *flag.Flag) { byVariable[f.Variable(fl.Name)] = fl })
	for _, pair := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, f.prefix+"_") || f.isServiceLink(name) {
			continue
		}
		fl := byVariable[name]
		if fl == nil {
			return fmt.Errorf("environment variable %s names no flag: unset it, or see --help", name)
		}
		if value == "" || f.Given(fl.Name) {
			continue // etcd takes an empty variable for none
		}
		if err := f.Set(fl.Name, value); err != nil {
			return fmt.Errorf("environment variable %s has the invalid value %q: %w", name, value, err)
		}
	}
	return nil
}

// flagError writes flags as etcd's users do, with two dashes.
func flagError(err error) string {
	return strings.Replace(err.Error(), " -", " --", 1)
}

// serviceLink matches what Kubernetes puts into the environment of every container for a service with the name
// of the prefix (ETCD_SERVICE_HOST, ETCD_PORT_2379_TCP). It is meant for nobody in particular.
var serviceLink = regexp.MustCompile(`^(SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)$`)

func (f *Flags) isServiceLink(variable string) bool {
	return serviceLink.MatchString(strings.TrimPrefix(variable, f.prefix+"_"))
}

// Variable is the environment variable of a flag.
func (f *Flags) Variable(flagName string) string {
	return f.prefix + "_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// Given tells whether a flag was set, on the command line or by its variable.
func (f *Flags) Given(name string) bool {
	given := false
	f.Visit(func(fl *flag.Flag) { given = given || fl.Name == name })
	return given
}

// Usage writes the flags with their defaults and what they mean.
func (f *Flags) Usage(w io.Writer) {
	f.VisitAll(func(fl *flag.Flag) {
		fmt.Fprintf(w, "  --%s '%s'\n    \t%s\n", fl.Name, fl.DefValue, fl.Usage)
	})
}
