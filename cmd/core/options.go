package main

import (
	"fmt"
	"io"

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
	features         map[string]bool   // etcd's feature gates that are open
	ineffective      map[string]string // flags that were given and change nothing, and why
	unknownVariables []string
	version          bool

	usage func(io.Writer)
}

// part is the flags of one noun.
type part interface {
	// define adds the flags.
	define(f *process.Flags)
	// apply checks what was given, as far as that is possible before anything is started, and puts it into o.
	apply(f *process.Flags, o *options) error
}

// parseOptions reads the flags and environment variables of etcd's server. Their names, defaults and forms are etcd's
// (https://etcd.io/docs/v3.6/op-guide/configuration/).
func parseOptions(args, environ []string) (options, error) {
	f, parts, o := newFlags()
	configFile := f.String("config-file", "", "Path to a configuration file in YAML. If it is given, other flags and variables are ignored.")
	if err := f.Parse(args, environ); err != nil || o.version {
		return *o, err
	}
	o.unknownVariables = f.Unknown()
	if *configFile != "" {
		f, parts, o = newFlags()
		if err := readConfigFile(f, *configFile); err != nil {
			return *o, err
		}
	}
	for _, p := range parts {
		if err := p.apply(f, o); err != nil {
			return *o, err
		}
	}
	o.ineffective = f.Ineffective()
	return *o, nil
}

func newFlags() (*process.Flags, []part, *options) {
	f := process.NewFlags("core", "ETCD")
	f.Foreign("ETCD_VERSION", "ETCD_VERIFY", "ETCD_UNSUPPORTED_ARCH") // known to etcd or its images
	f.TolerateUnknown()                                               // as etcd: images have variables of their own with this prefix
	o := &options{usage: f.Usage}
	f.BoolVar(&o.version, "version", false, "Print the version and exit.")
	parts := []part{ // later ones look at what earlier ones have put into o
		&trafficFlags{}, &clusterFlags{}, &storeFlags{}, &tlsFlags{}, &authFlags{}, &logFlags{}, &tracingFlags{}, &featureFlags{}, &ineffectiveFlags{},
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
