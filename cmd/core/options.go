package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
	"weir/cmd/internal/tracing"
	"weir/core"
	"weir/grpcapi"
)

// options is what the flags ask for, checked.
type options struct {
	core    core.Config
	api     grpcapi.Config // without what is made at start
	listen  listenOptions
	tls     tlsfiles.Server // towards clients
	peerTLS tlsfiles.Server
	log     process.LogConfig
	tracing *tracing.Config // nil is off

	discovery *discovery // nil is off

	extensiveMetrics bool
	statusPage       bool
	drain            process.Drain
	features         map[string]bool   // etcd's feature gates that are open
	ineffective      map[string]string // flags that were given and change nothing, and why
	unknownVariables []string
	version          bool

	configFile string   // "" is none
	ignored    []string // flags and variables that were given beside it
	flags      *process.Flags
	usage      func(io.Writer)
}

// part is the flags of one noun.
type part interface {
	// define adds the flags.
	define(f *process.Flags)
	// apply checks what was given, as far as that is possible before anything is started, and puts it into o. Its error joins all that
	// is wrong.
	apply(f *process.Flags, o *options) error
}

// parseOptions reads the flags and environment variables of etcd's server. Their names, defaults and forms are etcd's
// (https://etcd.io/docs/v3.6/op-guide/configuration/).
//
// With a configuration file nothing else counts, as at etcd. The file is read each time. The error joins all that is wrong, and then the
// options are of no use but for the help.
func parseOptions(args, environ []string) (options, error) {
	o, err := readOptions(args, environ)
	if err != nil {
		return options{usage: o.usage}, err
	}
	return o, nil
}

// readOptions is parseOptions, but where only what is asked for is contradictory the options are there, with their flags.
func readOptions(args, environ []string) (options, error) {
	f, parts, o := newFlags()
	if err := f.ParseArguments(args); err != nil || o.version {
		return options{usage: o.usage, version: o.version}, err
	}
	var err error
	if path := configFile(f, o, environ); path == "" {
		err = f.ParseEnvironment(environ)
	} else {
		written := f.Written(environ)
		f, parts, o = newFlags()
		o.configFile = path
		o.ignored = slices.DeleteFunc(written, func(w string) bool { return w == "--"+configFlag || w == f.Variable(configFlag) })
		err = f.ReadFile(path, fileForm)
	}
	if err != nil {
		return options{usage: o.usage}, err
	}
	o.unknownVariables = f.Unknown()
	var wrong process.Mistakes
	for _, p := range parts {
		wrong.Add(p.apply(f, o))
	}
	o.ineffective = f.Ineffective()
	return *o, f.Locate(wrong.Err())
}

const configFlag = "config-file"

// configFile is the file that is to be read, "" if there is none. Its variable must be looked at before all others, which may not count.
func configFile(f *process.Flags, o *options, environ []string) string {
	path := o.configFile
	for _, pair := range environ {
		if value, ok := strings.CutPrefix(pair, f.Variable(configFlag)+"="); ok && o.configFile == "" {
			path = value
		}
	}
	return path
}

func newFlags() (*process.Flags, []part, *options) {
	f := process.NewFlags("core", "ETCD")
	f.Foreign("ETCD_VERSION", "ETCD_VERIFY", "ETCD_UNSUPPORTED_ARCH") // known to etcd or its images
	f.TolerateUnknown()                                               // as etcd: images have variables of their own with this prefix
	f.GroupAs(helpGroups)
	f.Lists(listFlags...)
	o := &options{flags: f, usage: func(w io.Writer) { f.Usage(w, introduction) }}
	f.BoolVar(&o.version, "version", false, "Print the version and exit.")
	f.StringVar(&o.configFile, configFlag, "", "Path to a configuration file in YAML. If it is given, other flags and variables are ignored.")
	parts := []part{ // later ones look at what earlier ones have put into o
		&trafficFlags{}, &clusterFlags{}, &storeFlags{}, &tlsFlags{}, &authFlags{}, &logFlags{}, &tracingFlags{}, &featureFlags{}, &drainFlags{}, &ineffectiveFlags{},
	}
	for _, p := range parts {
		p.define(f)
	}
	return f, parts, o
}

// oneOf checks the value of a flag that has only a few.
func oneOf(flag, value string, values ...string) error {
	for _, v := range values {
		if v == value {
			return nil
		}
	}
	return fmt.Errorf("unknown --%s=%s: use one of %q", flag, value, values)
}
