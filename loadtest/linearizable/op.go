package linearizable

import (
	"fmt"
	"strings"
	"time"
)

// Op is one request and how it ended.
type Op struct {
	Request
	Server string // where it was sent
	Proxy  bool   // the server is a proxy
	Client int    // within its history
	Conn   int64  // the connection that brought the answer; every connection ever made has a number of its own

	// Since the beginning of the run, on one monotonic clock.
	Call, Return time.Duration

	*Response       // nil if the request failed
	Err       error // how it failed
}

// Request is one of Range, RangeStream, Put, DeleteRange and Txn.
type Request struct {
	Kind     Kind
	Compare  Compare // of a Txn
	Then     []Step  // its only one, if it is no Txn
	Else     []Step  // of a Txn
	Uncached bool    // the proxy is asked to forward it
}

// Kind is the RPC of a request.
type Kind string

// The kinds.
const (
	Range       Kind = "range"
	RangeStream Kind = "range stream"
	Put         Kind = "put"
	DeleteRange Kind = "delete"
	Txn         Kind = "txn"
)

// Compare is what decides between the two branches of a Txn. The zero value is always true.
type Compare struct {
	Key   string
	Value string // empty: there must be no such key
}

// Step is one of the operations in a transaction, or a request by itself.
type Step struct {
	Kind     Kind // Range, Put or DeleteRange
	Key, End string
	Value    string // of a Put
	Read     Read   // of a Range
}

// Read is the options of a Range.
type Read struct {
	Serializable bool
	Revision     int64 // 0: the newest
	Limit        int64
	KeysOnly     bool
	CountOnly    bool
}

// Response is the answer to a request.
type Response struct {
	Revision  int64 // of the header
	Succeeded bool  // which branch of a Txn; true for other requests
	Results   []Result
	// Stale is what the proxy said of the age of its answer; negative if it said nothing.
	Stale time.Duration
}

// Result is the answer to a Step.
type Result struct {
	KVs     []KV
	More    bool
	Count   int64
	Deleted int64
}

// KV is a pair as it was at some revision.
type KV struct {
	Key, Value           string
	Create, Mod, Version int64
}

// steps are those of both branches.
func (r *Request) steps() []Step { return append(r.Then[:len(r.Then):len(r.Then)], r.Else...) }

// writes tells whether the request may change something.
func (r *Request) writes() bool {
	for _, s := range r.steps() {
		if s.Kind != Range {
			return true
		}
	}
	return false
}

// linearizable tells whether the answer must show everything that had been answered before the request was sent. A
// transaction that only reads is serializable if all its reads are, as at etcd.
func (r *Request) linearizable() bool {
	if r.writes() {
		return true
	}
	for _, s := range r.steps() {
		if !s.Read.Serializable {
			return true
		}
	}
	return false
}

// pinned is the oldest revision that the request asks for by its number; 0 for none.
func (r *Request) pinned() int64 {
	var rev int64
	for _, s := range r.steps() {
		if p := s.Read.Revision; p > 0 && (rev == 0 || p < rev) {
			rev = p
		}
	}
	return rev
}

// written is every value that the request may put.
func (r *Request) written() []string {
	var values []string
	for _, s := range r.steps() {
		if s.Kind == Put {
			values = append(values, s.Value)
		}
	}
	return values
}

// changed tells whether a transaction or write that was answered has made a revision.
func (o *Op) changed() bool {
	if o.Response == nil {
		return false
	}
	for i, s := range o.branch() {
		if s.Kind == Put || s.Kind == DeleteRange && o.Results[i].Deleted > 0 {
			return true
		}
	}
	return false
}

// branch is what was done of an answered request.
func (o *Op) branch() []Step {
	if o.Succeeded {
		return o.Then
	}
	return o.Else
}

// holds tells whether the range [key, end), with etcd's conventions for end, has k.
func holds(key, end, k string) bool {
	switch end {
	case "":
		return k == key
	case "\x00":
		return k >= key
	default:
		return key <= k && k < end
	}
}

func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[%v, %v] client %d at %s, connection %d: %v => ", o.Call, o.Return, o.Client, o.Server, o.Conn, o.Request)
	if o.Response == nil {
		fmt.Fprintf(&b, "error: %v", o.Err)
	} else {
		b.WriteString(o.Response.String())
	}
	return b.String()
}

func (r Request) String() string {
	s := joined(r.Then)
	if r.Kind == Txn {
		s = fmt.Sprintf("txn if %v then {%s} else {%s}", r.Compare, s, joined(r.Else))
	} else if r.Kind == RangeStream {
		s = "streamed " + s
	}
	if r.Uncached {
		s = "uncached " + s
	}
	return s
}

func joined[T any](all []T) string {
	var s []string
	for _, v := range all {
		s = append(s, fmt.Sprint(v))
	}
	return strings.Join(s, "; ")
}

func (c Compare) String() string {
	switch {
	case c.Key == "":
		return "true"
	case c.Value == "":
		return "no " + c.Key
	default:
		return c.Key + "=" + c.Value
	}
}

func (s Step) String() string {
	keys := s.Key
	if s.End != "" {
		keys = fmt.Sprintf("[%s, %q)", s.Key, s.End)
	}
	switch s.Kind {
	case Put:
		return fmt.Sprintf("put %s=%s", keys, s.Value)
	case DeleteRange:
		return "delete " + keys
	default:
		return "read " + keys + s.Read.String()
	}
}

func (r Read) String() string {
	var s string
	if r.Serializable {
		s += " serializable"
	}
	if r.Revision != 0 {
		s += fmt.Sprintf(" at revision %d", r.Revision)
	}
	if r.Limit != 0 {
		s += fmt.Sprintf(" limit %d", r.Limit)
	}
	if r.KeysOnly {
		s += " keys only"
	}
	if r.CountOnly {
		s += " count only"
	}
	return s
}

func (r *Response) String() string {
	s := fmt.Sprintf("revision %d", r.Revision)
	if !r.Succeeded {
		s += ", compare failed"
	}
	if r.Stale >= 0 {
		s += fmt.Sprintf(", stale by %v", r.Stale)
	}
	return s + ": " + joined(r.Results)
}

func (r Result) String() string {
	var s []string
	for _, kv := range r.KVs {
		s = append(s, fmt.Sprintf("%s=%s(created %d, modified %d, version %d)", kv.Key, kv.Value, kv.Create, kv.Mod, kv.Version))
	}
	if r.Deleted > 0 {
		s = append(s, fmt.Sprintf("%d deleted", r.Deleted))
	}
	return fmt.Sprintf("{%s; count %d, more %t}", strings.Join(s, " "), r.Count, r.More)
}
