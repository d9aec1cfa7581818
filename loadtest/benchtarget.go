package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"weir/loadtest/proc"
	"weir/loadtest/suite"
)

// externalFlags are those of a system that runs already. They are called as in etcd's own tools.
type externalFlags struct {
	target, user, pids string
	ca, cert, key      string
	skipVerify         bool
	compact            bool
}

func (e *externalFlags) define(f *flag.FlagSet) {
	f.StringVar(&e.target, "target", "", "measure a system that runs already, at these addresses, host:port each, with https:// before them for TLS. Keys are "+
		"put below "+suite.Prefix+" only, and deleted")
	f.StringVar(&e.ca, "cacert", "", "file with the certificates, in PEM, that servers' are checked with; TLS is used then")
	f.StringVar(&e.cert, "cert", "", "file with a certificate of the client, in PEM, for TLS")
	f.StringVar(&e.key, "key", "", "file with the key of -cert, in PEM")
	f.BoolVar(&e.skipVerify, "insecure-skip-tls-verify", false, "use TLS and believe every server")
	f.StringVar(&e.user, "user", "", "name:password for the target's authentication; without it $LOADTEST_USER, or $ETCDCTL_USER and $ETCDCTL_PASSWORD, as etcdctl "+
		"has them, which nobody sees in a list of processes. The user must be allowed to read and write below "+suite.Prefix+", and have the role root for -compact")
	f.BoolVar(&e.compact, "compact", false, "compact the target's history when the run has ended, and defragment it: not where others need either")
	f.StringVar(&e.pids, "pid", "", "ids of the target's processes, if they run on this machine, whose processor time and memory are measured then")
}

// systems is the system that the flags describe, none without -target.
func (e *externalFlags) systems() ([]suite.External, error) {
	if e.target == "" {
		if *e != (externalFlags{}) {
			return nil, errors.New("flags for a system that runs already are given, but not -target")
		}
		return nil, nil
	}
	if (e.cert == "") != (e.key == "") {
		return nil, errors.New("-cert and -key are given together")
	}
	s := suite.External{Name: "target", Compact: e.compact}
	secure := e.ca != "" || e.cert != "" || e.skipVerify
	plain := "" // the first endpoint that is said to be so
	for _, endpoint := range strings.Split(e.target, ",") {
		scheme, addr, found := strings.Cut(endpoint, "://")
		if !found {
			scheme, addr = "", endpoint
		}
		addr = strings.TrimSuffix(addr, "/")
		if strings.ContainsAny(addr, "/?#@") {
			return nil, fmt.Errorf("-target %s: an address ends with its port, as in https://host:2379", endpoint)
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("-target %s: %w", endpoint, err)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("-target %s: %q is no port", endpoint, port)
		}
		switch scheme {
		case "":
		case "https":
			secure = true
		case "http":
			plain = cmp.Or(plain, endpoint)
		default:
			return nil, fmt.Errorf("-target %s: all are host:port, with https:// before them for TLS", endpoint)
		}
		s.Endpoints = append(s.Endpoints, addr)
	}
	if secure && plain != "" {
		return nil, fmt.Errorf("-target %s: it would be asked without TLS, but other flags or addresses are for TLS: all endpoints have it, or none", plain)
	}
	var err error
	if secure {
		if s.TLS, err = e.tls(); err != nil {
			return nil, err
		}
	}
	if s.User, s.Password, err = e.login(os.Getenv); err != nil {
		return nil, err
	}
	if s.PIDs, err = e.processes(); err != nil {
		return nil, err
	}
	return []suite.External{s}, nil
}

// login is who the clients are, "" for nobody: the flag says it, or the environment.
func (e *externalFlags) login(getenv func(string) string) (user, password string, err error) {
	said, where := e.user, "-user"
	if said == "" {
		said, where = getenv("LOADTEST_USER"), "LOADTEST_USER"
	}
	if said == "" {
		said, where = getenv("ETCDCTL_USER"), "ETCDCTL_USER"
		if password := getenv("ETCDCTL_PASSWORD"); said != "" && password != "" {
			return said, password, nil // as etcdctl takes them: the name is all of the user
		}
	}
	if said == "" {
		return "", "", nil
	}
	user, password, found := strings.Cut(said, ":")
	switch {
	case user == "" || !found && where != "ETCDCTL_USER":
		return "", "", fmt.Errorf("%s wants name:password", where)
	case !found:
		return "", "", errors.New("ETCDCTL_USER wants name:password, or the password in ETCDCTL_PASSWORD")
	}
	return user, password, nil
}

// tls is the configuration of clients. Without -cacert it trusts whom the system does.
func (e *externalFlags) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: e.skipVerify}
	if e.ca != "" {
		text, err := os.ReadFile(e.ca)
		if err != nil {
			return nil, fmt.Errorf("-cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("-cacert: there is no certificate in %s", e.ca)
		}
	}
	if e.cert != "" {
		pair, err := tls.LoadX509KeyPair(e.cert, e.key)
		if err != nil {
			return nil, fmt.Errorf("-cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (e *externalFlags) processes() ([]int, error) {
	if e.pids == "" {
		return nil, nil
	}
	var pids []int
	for _, s := range strings.Split(e.pids, ",") {
		pid, err := strconv.Atoi(s)
		if err != nil || pid < 1 {
			return nil, fmt.Errorf("-pid: %q is no process", s)
		}
		_, err = proc.CPUOf(pid)
		if err == nil {
			_, err = proc.MemoryOf(pid) // which may be refused though the other is not
		}
		if err != nil {
			return nil, fmt.Errorf("-pid: there is no process %d on this machine, or it may not be measured: %w", pid, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
