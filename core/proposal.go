package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"weir/grpcapi/wire"
)

// What is in the log has to be applied by every member, now and after each restart until the log is cut, and one entry that cannot be would
// end them all for good. So what others ask to have put there is read through before. Members ask for nothing that is refused, unless
// there is a fault, or somebody who is no member reaches the peer URLs.

// checkProposal refuses entries that members, among them this one, could not apply. Any goroutine may call it.
//
// The level that counts is the one that is applied here. What a member proposes that has applied the raise of the level before this one
// has is refused, too, and given up by that member after a while. A raise is applied within milliseconds.
func (a *agreement) checkProposal(entries []*raftpb.Entry) error {
	for _, e := range entries {
		if t := e.GetType(); t != raftpb.EntryNormal { // changes of the membership come by reconfigure
			return fmt.Errorf("an entry of type %v", t)
		}
		_, rest, err := readEntryHeader(e.GetData())
		for err == nil && len(rest) > 0 {
			var k kind
			var payload []byte
			if k, _, payload, rest, err = readEntryRequest(rest); err == nil {
				err = a.checkRequest(k, payload)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *agreement) checkRequest(k kind, payload []byte) error {
	if k == kindPut { // most are; this takes no memory, and there is nothing to validate
		var r wire.PutRequest
		return r.Unmarshal(payload)
	}
	decoded, err := decode(k, payload, a.highest)
	if err != nil {
		return err
	}
	if err := validate(decoded); err != nil {
		return fmt.Errorf("%v request: %w", k, err)
	}
	if k.isLeaders() {
		return fmt.Errorf("a request of %v, which only a leader makes", k)
	}
	return a.permit(k, kinds[k].level)
}

const (
	// maxRefusals bounds how many reasons are remembered.
	maxRefusals = 100
	// maxReason bounds each in bytes: some quote what they refuse.
	maxReason = 256
)

// lastRefusal is added to the last reason that there is room for.
const lastRefusal = " (what is refused from now on for other reasons is not logged)"

// refusals are the reasons for which proposals were refused. Each is logged once, as far as there is room for them.
type refusals struct {
	mu     sync.Mutex // guards logged
	logged map[refusedProposal]bool
}

type refusedProposal struct {
	from   uint64
	reason string
}

// add returns the reason as it is to be logged, and whether it is the first of its kind.
func (r *refusals) add(from uint64, err error) (reason string, isNew bool) {
	reason = err.Error()
	if len(reason) > maxReason {
		reason = reason[:maxReason] + "..."
	}
	one := refusedProposal{from, reason}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logged[one] || len(r.logged) == maxRefusals {
		return reason, false
	}
	if r.logged == nil {
		r.logged = map[refusedProposal]bool{}
	}
	r.logged[one] = true
	if len(r.logged) == maxRefusals {
		reason += lastRefusal
	}
	return reason, true
}

// decodeStrictly reads JSON that another member has written, and refuses fields that this weir does not know: they mean something.
func decodeStrictly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows")
	}
	return nil
}
