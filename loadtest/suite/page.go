package suite

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/loadtest/client"
)

// page is what the answer to a read must be: so many keys, from the first to the last, with values of so many bytes each.
//
// The first and the last key are looked at, and their values' sizes; those between are counted, and must have room for a value. To look
// at all of them would take a client longer than some servers need for the answer.
type page struct {
	first, last     []byte
	keys, valueSize int
}

// bytes are those of all values.
func (p page) bytes() int { return p.keys * p.valueSize }

// check returns the revision of an encoded RangeResponse.
func (p page) check(answer []byte) (revision int64, err error) {
	keys := 0
	var first, last []byte
	if err := client.EachField(answer, func(num protowire.Number, _ protowire.Type, field []byte) (err error) {
		switch num {
		case rangeKVs:
			last, _ = protowire.ConsumeBytes(field)
			if keys++; keys == 1 {
				first = last
			}
			if len(last) < p.valueSize {
				err = fmt.Errorf("key %d of an answer has less than the %d bytes of its value", keys, p.valueSize)
			}
		case answerHeader:
			header, _ := protowire.ConsumeBytes(field)
			revision, err = client.VarintField(header, headerRevision)
		}
		return err
	}); err != nil {
		return 0, err
	}
	if keys != p.keys {
		return 0, fmt.Errorf("an answer has %d keys, want %d", keys, p.keys)
	}
	if err := p.checkKey(first, p.first); err != nil {
		return 0, err
	}
	return revision, p.checkKey(last, p.last)
}

// The numbers of fields in etcd's kv.proto.
const (
	kvKey   = 1
	kvValue = 5
)

// checkKey looks at one encoded KeyValue.
func (p page) checkKey(kv, want []byte) error {
	var key, value []byte
	if err := client.EachField(kv, func(num protowire.Number, _ protowire.Type, field []byte) error {
		switch num {
		case kvKey:
			key, _ = protowire.ConsumeBytes(field)
		case kvValue:
			value, _ = protowire.ConsumeBytes(field)
		}
		return nil
	}); err != nil {
		return err
	}
	if !bytes.Equal(key, want) || len(value) != p.valueSize {
		return fmt.Errorf("an answer has key %.100q with a value of %d B, where %q with one of %d B is to be", key, len(value), want, p.valueSize)
	}
	return nil
}
