package tlsfiles

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// parsePair reads a PEM certificate with its chain, and its key. A chain that is still being written would be shown without its
// last certificates.
func parsePair(contents [][]byte) (*tls.Certificate, error) {
	for i, content := range contents {
		if _, err := pemBlocks(content); err != nil {
			return nil, inFile{i, err}
		}
	}
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, fmt.Errorf("%w: give a PEM certificate and its key", err)
	}
	return &pair, nil
}

// parseSameName is parsePair, but of one common name: that of the first pair.
//
// With --client-cert-auth a cluster takes the common name for the user of every request without a token. A proxy that is not
// told of the name would have all its clients become that user.
func parseSameName() func([][]byte) (*tls.Certificate, error) {
	var first *tls.Certificate
	return func(contents [][]byte) (*tls.Certificate, error) {
		pair, err := parsePair(contents)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = pair
		}
		if was, is := first.Leaf.Subject.CommonName, pair.Leaf.Subject.CommonName; is != was {
			return nil, fmt.Errorf("its common name is %q and was %q, for which the cluster takes this process: restart it to be another user", is, was)
		}
		return pair, nil
	}
}

// pemBlocks returns the blocks of a PEM file; none if it is something else. A block that is not whole is an error: a file
// that is still being written must not count for what it will hold, of revoked certificates least of all.
func pemBlocks(content []byte) (blocks []*pem.Block, err error) {
	begun := bytes.Count(content, []byte("-----BEGIN "))
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			break
		}
		blocks = append(blocks, block)
	}
	if len(blocks) < begun {
		return nil, fmt.Errorf("%d of its %d PEM blocks are not whole: give a PEM file that is complete", begun-len(blocks), begun)
	}
	return blocks, nil
}

// parseAuthorities reads a PEM bundle. As at etcd everything in it must be a certificate: an authority that was left out
// silently would be missed only when its first client comes.
func parseAuthorities(contents [][]byte) (*x509.CertPool, error) {
	blocks, err := pemBlocks(contents[0])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for i, block := range blocks {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d of it, %s: %w: give a PEM file of certificates", i+1, block.Type, err)
		}
		pool.AddCert(cert)
	}
	if len(blocks) == 0 {
		return nil, errors.New("it has no certificate: give a PEM file of certificates")
	}
	return pool, nil
}

// serials are those of revoked certificates, as big-endian bytes.
type serials map[string]struct{}

func (s serials) has(c *x509.Certificate) bool {
	_, revoked := s[string(c.SerialNumber.Bytes())]
	return revoked
}

// parseRevoked reads a certificate revocation list: one in DER, the only form that etcd takes, or any number in PEM, as
// openssl writes them. As at etcd neither their signatures nor their dates count: who can write the file is trusted.
func parseRevoked(contents [][]byte) (serials, error) {
	revoked := serials{}
	add := func(der []byte) error {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return fmt.Errorf("%w: give a certificate revocation list in DER or PEM", err)
		}
		for _, entry := range list.RevokedCertificateEntries {
			revoked[string(entry.SerialNumber.Bytes())] = struct{}{}
		}
		return nil
	}
	blocks, err := pemBlocks(contents[0])
	if err != nil {
		return nil, err
	}
	if len(blocks) == 0 {
		return revoked, add(contents[0])
	}
	for _, block := range blocks {
		if err := add(block.Bytes); err != nil {
			return nil, err
		}
	}
	return revoked, nil
}
