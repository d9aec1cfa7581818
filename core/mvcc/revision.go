package mvcc

import (
	"encoding/binary"
	"fmt"
	"math"
)

// revision is one change of one key: main is the revision of the store that the change is part of, sub counts the
// changes made in the same revision, from 0.
type revision struct {
	main  int64
	sub   uint32
	flags uint8
}

const (
	// tombstone marks the deletion of the key.
	tombstone uint8 = 1 << iota
	// leased marks a put with a lease. It saves reading the old value at each put to learn whether a lease is
	// to be detached.
	leased
)

func (r revision) deleted() bool { return r.flags&tombstone != 0 }

// before orders revisions by time.
func (r revision) before(o revision) bool {
	return r.main < o.main || r.main == o.main && r.sub < o.sub
}

// A revision is stored under main, '_' and sub, both numbers in 8 bytes big-endian, and for a tombstone also 't'.
const (
	revKeyLen       = 8 + 1 + 8
	tombstoneMark   = 't'
	maxRevKeyLen    = revKeyLen + 1
	revKeySeparator = '_'
)

func (r revision) appendKey(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.main))
	dst = append(dst, revKeySeparator)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.sub))
	if r.deleted() {
		dst = append(dst, tombstoneMark)
	}
	return dst
}

func parseRevKey(k []byte) (revision, error) {
	marked := len(k) == maxRevKeyLen && k[revKeyLen] == tombstoneMark
	if len(k) != revKeyLen && !marked || k[8] != revKeySeparator {
		return revision{}, fmt.Errorf("%x is not a revision", k)
	}
	main, sub := binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[9:])
	if main > math.MaxInt64 || sub > math.MaxUint32 {
		return revision{}, fmt.Errorf("revision %x is out of range", k)
	}
	r := revision{main: int64(main), sub: uint32(sub)}
	if marked {
		r.flags = tombstone
	}
	return r, nil
}
