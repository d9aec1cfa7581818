package main

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"weir/cmd/internal/process"
)

// parseURLs reads a list of URLs as etcd does: http or https with host and port and no path, unix or unixs with a path of
// a socket. They come back sorted, each once. An empty list is nil.
func parseURLs(flag, list string) ([]*url.URL, error) {
	if list == "" {
		return nil, nil
	}
	var urls []*url.URL
	for _, s := range splitList(list) {
		u, err := url.Parse(s)
		if err != nil || !wellFormed(u) {
			return nil, fmt.Errorf("malformed URL %q in --%s: give it as http://host:port, https://host:port, unix://path or unixs://path", s, flag)
		}
		if !isSocket(u) && !process.PortExists(u.Port()) {
			return nil, fmt.Errorf("--%s has %s, of a port that there is not: give one up to 65535", flag, s)
		}
		if !slices.ContainsFunc(urls, func(v *url.URL) bool { return v.String() == u.String() }) {
			urls = append(urls, u)
		}
	}
	slices.SortFunc(urls, func(a, b *url.URL) int { return strings.Compare(a.String(), b.String()) })
	return urls, nil
}

func wellFormed(u *url.URL) bool {
	switch u.Scheme {
	case "http", "https":
		_, _, err := net.SplitHostPort(u.Host)
		return err == nil && u.Path == ""
	case "unix", "unixs":
		return u.Host+u.Path != ""
	}
	return false
}

// parseListenURLs reads URLs to listen on: as at etcd not by a name, which may stand for several addresses.
func parseListenURLs(flag, list string) ([]*url.URL, error) {
	urls, err := parseURLs(flag, list)
	if err != nil {
		return nil, err
	}
	for _, u := range urls {
		if isSocket(u) || u.Hostname() == "localhost" || net.ParseIP(u.Hostname()) != nil {
			continue
		}
		return nil, fmt.Errorf("--%s has %s, which names a host: give its IP address, or localhost", flag, u)
	}
	return urls, nil
}

// parseAdvertisedURLs reads URLs that others are to dial.
func parseAdvertisedURLs(flag, list string) ([]string, error) {
	urls, err := parseURLs(flag, list)
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, u := range urls {
		if !isSocket(u) && u.Hostname() == "" {
			return nil, fmt.Errorf("--%s has %s without a host: say under which address others reach this member", flag, u)
		}
		texts = append(texts, u.String())
	}
	return texts, nil
}

// isSocket tells whether u is of a unix socket.
func isSocket(u *url.URL) bool { return u.Scheme == "unix" || u.Scheme == "unixs" }

// isSecure tells whether u is of a port with TLS.
func isSecure(u *url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }

// address is what net.Listen wants. etcd takes a path without a leading slash for a relative one, as in unix://socket.
func address(u *url.URL) (network, addr string) {
	if isSocket(u) {
		return "unix", u.Host + u.Path
	}
	return "tcp", u.Host
}

// splitList splits at commas, and drops the space around. An empty list has no elements.
func splitList(list string) []string {
	if list == "" {
		return nil
	}
	elements := strings.Split(list, ",")
	for i := range elements {
		elements[i] = strings.TrimSpace(elements[i])
	}
	return elements
}
