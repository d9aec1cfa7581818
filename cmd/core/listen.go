package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"

	"weir/cmd/internal/process"
)

// listenOptions are the URLs to listen on.
type listenOptions struct {
	clients, http, metrics, peers []*url.URL

	reusePort bool
}

// flagURLs are the URLs of one flag.
type flagURLs struct {
	flag string
	urls []*url.URL
}

func (o listenOptions) byFlag() []flagURLs {
	return []flagURLs{
		{"listen-client-urls", o.clients},
		{"listen-client-http-urls", o.http},
		{"listen-metrics-urls", o.metrics},
		{"listen-peer-urls", o.peers},
	}
}

// checkAddresses refuses an address that two flags have, each of which wants something else there, whatever it is called. One flag
// may have it twice, with TLS and without, as at etcd; but not that of peers, as at etcd too.
func (o listenOptions) checkAddresses() error {
	type used struct{ flag, addr string }
	var before []used
	for _, list := range o.byFlag() {
		for _, u := range list.urls {
			_, addr := address(u)
			for _, b := range before {
				switch {
				case !process.SameSocket(b.addr, addr), b.addr == addr && b.flag == list.flag && list.flag != "listen-peer-urls":
				case b.addr == addr:
					return fmt.Errorf("--%s and --%s cannot both have %s: give each its own port", b.flag, list.flag, addr)
				default:
					return fmt.Errorf("--%s has %s and --%s has %s, which is the same port: give each its own", b.flag, b.addr, list.flag, addr)
				}
			}
			before = append(before, used{list.flag, addr})
		}
	}
	return nil
}

// listeners are open before anything else is started, so that a taken port costs nothing.
type listeners map[string][]*listener // by flag

// listener is an address.
type listener struct {
	net.Listener
	secure, plain bool // with TLS, and without
}

func (o listenOptions) open() (listeners, error) {
	opened := listeners{}
	for _, list := range o.byFlag() {
		byAddress := map[string]*listener{}
		for _, u := range list.urls {
			_, addr := address(u)
			l := byAddress[addr]
			if l == nil || u.Port() == "0" {
				one, err := o.listen(u, list.flag)
				if err != nil {
					opened.close()
					return nil, err
				}
				l = &listener{Listener: one}
				byAddress[addr] = l
				opened[list.flag] = append(opened[list.flag], l)
			}
			l.secure, l.plain = l.secure || isSecure(u), l.plain || !isSecure(u)
		}
	}
	return opened, nil
}

func (o listenOptions) listen(u *url.URL, flag string) (net.Listener, error) {
	network, addr := address(u)
	if network == "unix" {
		if err := removeStaleSocket(addr, flag); err != nil {
			return nil, err
		}
	}
	var c net.ListenConfig
	if o.reusePort && network == "tcp" {
		c.Control = reusePort
	}
	l, err := c.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, process.ListenError(u.String(), flag, err)
	}
	return l, nil
}

// close closes all that are open. A second close of what a server has closed does nothing.
func (l listeners) close() {
	for _, list := range l {
		for _, one := range list {
			one.Close()
		}
	}
}

// removeStaleSocket removes a unix socket that nobody listens on any more, left by a process that was killed.
func removeStaleSocket(path, flag string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return nil // net.Listen says what is wrong
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("listen on unix://%s: another process listens there: stop it, or give another --%s", path, flag)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of a process that is gone: %w", err)
	}
	return nil
}
