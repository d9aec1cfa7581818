package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v2"

	"weir/cmd/internal/process"
)

// fileSections are the keys of etcd's configuration file that hold keys, and the flags these stand for. All other keys are
// named as the flags are.
var fileSections = map[string]map[string]string{
	"client-transport-security": {
		"cert-file": "cert-file", "key-file": "key-file", "client-cert-file": "client-cert-file", "client-key-file": "client-key-file",
		"client-cert-auth": "client-cert-auth", "trusted-ca-file": "trusted-ca-file", "auto-tls": "auto-tls",
		"allowed-cn": "client-cert-allowed-cn", "allowed-hostname": "client-cert-allowed-hostname",
	},
	"peer-transport-security": {
		"cert-file": "peer-cert-file", "key-file": "peer-key-file", "client-cert-file": "peer-client-cert-file", "client-key-file": "peer-client-key-file",
		"client-cert-auth": "peer-client-cert-auth", "trusted-ca-file": "peer-trusted-ca-file", "auto-tls": "peer-auto-tls",
		"allowed-cn": "peer-cert-allowed-cn", "allowed-hostname": "peer-cert-allowed-hostname",
		"skip-client-san-verification": "peer-skip-client-san-verification",
	},
	"socket-options": {"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"},
}

// foreignKeys are in etcd's sample of a configuration file, and etcd 3.7 ignores them.
var foreignKeys = []string{
	"discovery-fallback", "enable-v2", "proxy", "proxy-dial-timeout", "proxy-failure-wait", "proxy-read-timeout", "proxy-refresh-interval", "proxy-write-timeout",
}

// readConfigFile sets flags from a file in the form of etcd's
// (https://github.com/etcd-io/etcd/blob/main/etcd.conf.yml.sample). Unlike etcd it refuses a key that it does not know:
// one that is misspelt may mean an empty store.
func readConfigFile(f *process.Flags, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read --config-file: %w: give a file that this user can read", err)
	}
	var file map[string]any
	if err := yaml.Unmarshal(text, &file); err != nil {
		return fmt.Errorf("--config-file=%s is not YAML: %s", path, strings.Join(strings.Fields(err.Error()), " "))
	}
	for _, key := range slices.Sorted(maps.Keys(file)) {
		value := file[key]
		if slices.Contains(foreignKeys, key) {
			continue
		}
		flags, isSection := fileSections[key]
		if !isSection {
			if err := setFromFile(f, path, key, key, value); err != nil {
				return err
			}
			continue
		}
		section, ok := value.(map[any]any)
		if !ok && value != nil {
			return fmt.Errorf("--config-file=%s: %s must have keys below it", path, key)
		}
		for k, v := range section {
			name := fmt.Sprint(k)
			if err := setFromFile(f, path, key+"."+name, flags[name], v); err != nil {
				return err
			}
		}
	}
	return nil
}

// setFromFile sets a flag to the value of a key.
func setFromFile(f *process.Flags, path, key, flagName string, value any) error {
	fl := f.Lookup(flagName)
	if fl == nil || flagName == "version" {
		return fmt.Errorf("--config-file=%s has the key %s, which weir does not know: leave it out, or see --help", path, key)
	}
	if value == nil {
		return nil // a key without a value, as in etcd's sample
	}
	text := fmt.Sprint(value)
	if list, ok := value.([]any); ok {
		var elements []string
		for _, e := range list {
			elements = append(elements, fmt.Sprint(e))
		}
		text = strings.Join(elements, ",")
	}
	if n, ok := value.(int); ok && isDuration(fl) {
		text = time.Duration(n).String() // etcd has nanoseconds in files
	}
	if err := f.Set(flagName, text); err != nil {
		return fmt.Errorf("--config-file=%s has %q for %s: %w", path, text, key, err)
	}
	return nil
}

func isDuration(fl *flag.Flag) bool {
	getter, ok := fl.Value.(flag.Getter)
	if !ok {
		return false
	}
	_, ok = getter.Get().(time.Duration)
	return ok
}
