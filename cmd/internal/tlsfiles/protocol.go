package tlsfiles

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// protocol checks versions and cipher suites, and returns a configuration that has them.
func (s Server) protocol() (*tls.Config, error) {
	c := &tls.Config{}
	var err error
	if c.MinVersion, err = version("tls-min-version", s.MinVersion); err != nil {
		return nil, err
	}
	if c.MaxVersion, err = version("tls-max-version", s.MaxVersion); err != nil {
		return nil, err
	}
	if c.MaxVersion != 0 && c.MinVersion > c.MaxVersion {
		return nil, fmt.Errorf("--tls-min-version=%s is above --tls-max-version=%s: swap them", s.MinVersion, s.MaxVersion)
	}
	flag := s.Side.flag("cipher-suites")
	if c.CipherSuites, err = suites(flag, s.CipherSuites); err != nil {
		return nil, err
	}
	if len(c.CipherSuites) > 0 && c.MinVersion == tls.VersionTLS13 {
		return nil, fmt.Errorf("--%s cannot be chosen for TLS1.3: leave it out, or set --tls-min-version=TLS1.2", flag)
	}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	return c, nil
}

func version(flag, name string) (uint16, error) {
	switch name {
	case "":
		return 0, nil
	case "TLS1.2":
		return tls.VersionTLS12, nil
	case "TLS1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("unknown --%s=%s: use TLS1.2 or TLS1.3", flag, name)
}

func suites(flag string, names []string) ([]uint16, error) {
	known := map[string]uint16{
		// As they were called before the hash became part of the name; etcd knows them still.
		"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		known[s.Name] = s.ID
	}
	var ids []uint16
	for _, name := range names {
		id, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("unknown cipher suite %q in --%s: use Go's names, as %s", name, flag, strings.Join(suiteNames(), ", "))
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// suiteNames are those that may be chosen: TLS 1.3 has its own, which are not for choice.
func suiteNames() []string {
	var names []string
	for _, s := range tls.CipherSuites() {
		if s.SupportedVersions[0] != tls.VersionTLS13 {
			names = append(names, s.Name)
		}
	}
	return names
}
