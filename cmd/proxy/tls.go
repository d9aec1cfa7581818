package main

import (
	"crypto/tls"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"

	"weir/cmd/internal/tlsfiles"
)

// certificates are the TLS of all connections, loaded from the files that the flags name.
type certificates struct {
	upstream func() *tls.Config // nil without any of its flags
	name     string             // the common name that upstream is shown
	clients  *tls.Config        // nil without any of its flags
	// metrics is for --metrics-addr with https. It is clients, but a client's certificate must be for its address, as at
	// etcd's proxy.
	metrics *tls.Config
}

func (o *options) loadCertificates(files *tlsfiles.Set, logger *slog.Logger) (c certificates, err error) {
	if c.upstream, c.name, err = o.upstream.Load(files); err != nil {
		return c, err
	}
	if c.clients, err = o.listen.Load(files); err != nil {
		return c, err
	}
	o.listen.Warn(logger)
	if !slices.ContainsFunc(o.metricsURLs, isSecure) {
		return c, nil
	}
	metrics := o.listen
	metrics.CheckClientAddress = true
	c.metrics, err = metrics.Load(files)
	return c, err
}

func isSecure(u *url.URL) bool { return u.Scheme == "https" }

// selfSignedDir is where a generated certificate is kept, as by etcd's proxy.
func (o *options) selfSignedDir() string { return filepath.Join(o.dataDir, "fixtures", "proxy") }
