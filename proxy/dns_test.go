package proxy

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// fakeDNS is a name server in memory that knows SRV records, and no other.
type fakeDNS struct {
	mu      sync.Mutex // guards the fields below
	records map[string][]dnsmessage.SRVResource
	asked   int
}

// name changes what is at a name, as in "_etcd-client._tcp.example.com".
func (d *fakeDNS) name(name string, records ...dnsmessage.SRVResource) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.records == nil {
		d.records = map[string][]dnsmessage.SRVResource{}
	}
	d.records[name+"."] = records
}

func srv(target string, port uint16) dnsmessage.SRVResource {
	return dnsmessage.SRVResource{Target: dnsmessage.MustNewName(target), Port: port}
}

// resolver asks the server over pipes, on which DNS is as over TCP: RFC 1035, 4.2.2.
func (d *fakeDNS) resolver(t *testing.T) *net.Resolver {
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		serving.Go(func() {
			defer server.Close()
			for d.serve(server) == nil {
			}
		})
		return client, nil
	}}
}

// serve answers one question.
func (d *fakeDNS) serve(c net.Conn) error {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return err
	}
	raw := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, raw); err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(raw); err != nil {
		return err
	}
	q := m.Questions[0]
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}
	m.Additionals = nil
	d.mu.Lock()
	d.asked++
	records, ok := d.records[q.Name.String()]
	d.mu.Unlock()
	if !ok || q.Type != dnsmessage.TypeSRV {
		m.RCode = dnsmessage.RCodeNameError
	} else {
		for _, r := range records {
			h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &r})
		}
	}
	answer, err := m.AppendPack(make([]byte, 2))
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint16(answer, uint16(len(answer)-2))
	_, err = c.Write(answer)
	return err
}
