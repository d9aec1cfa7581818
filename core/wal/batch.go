package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"google.golang.org/protobuf/proto"
)

const (
	// sectorSize is what a disk writes whole or not at all. Batches begin on a sector, so that writing one never
	// touches a sector of a batch that is already synced.
	sectorSize = 512
	// batchHeaderSize fits into one sector: a batch header lands whole or not at all.
	batchHeaderSize  = 32
	recordHeaderSize = 5
	// maxBatch bounds what one Append may bring, in bytes.
	maxBatch = 1 << 30
)

// The kinds of records. A reader refuses a kind that it does not know: skipping it could skip an entry.
const (
	kindMetadata  byte = 1 // what Create was given
	kindHardState byte = 2 // a raftpb.HardState
	kindEntry     byte = 3 // a raftpb.Entry; it ends every entry of the same or a higher index before it
	kindCut       byte = 4 // 8 bytes: entries up to this index are not needed
	kindSnapshot  byte = 5 // index and term, 8 bytes each: a snapshot that stands for the log before this record
)

// batchHeader is the head of a batch, as drawn in the package comment.
type batchHeader struct {
	sum        uint32 // over the rest of the header, and so, through payloadSum, over the whole batch
	payloadSum uint32 // over payload and padding
	logID      uint64
	seq        uint64
	prev       uint32 // the sum of the batch before
	length     uint32 // of the payload, in bytes, without padding
}

// size is the batch's length on disk.
func (h batchHeader) size() int64 { return roundUp(batchHeaderSize + int64(h.length)) }

// sealBatch turns buf, which is room for a header followed by records, into a batch: it pads it to whole sectors
// and fills in the header. It returns the batch, which may share buf's memory, and its sum.
func sealBatch(buf []byte, logID, seq uint64, prev uint32) ([]byte, uint32) {
	length := len(buf) - batchHeaderSize
	buf = append(buf, make([]byte, roundUp(int64(len(buf)))-int64(len(buf)))...)
	binary.LittleEndian.PutUint32(buf[4:], checksum(buf[batchHeaderSize:]))
	binary.LittleEndian.PutUint64(buf[8:], logID)
	binary.LittleEndian.PutUint64(buf[16:], seq)
	binary.LittleEndian.PutUint32(buf[24:], prev)
	binary.LittleEndian.PutUint32(buf[28:], uint32(length))
	sum := checksum(buf[4:batchHeaderSize])
	binary.LittleEndian.PutUint32(buf, sum)
	return buf, sum
}

// parseBatchHeader reads the header at the start of b. It returns false if there is none that is whole and of
// this log.
func parseBatchHeader(b []byte, logID uint64) (batchHeader, bool) {
	h := batchHeader{
		sum:        binary.LittleEndian.Uint32(b),
		payloadSum: binary.LittleEndian.Uint32(b[4:]),
		logID:      binary.LittleEndian.Uint64(b[8:]),
		seq:        binary.LittleEndian.Uint64(b[16:]),
		prev:       binary.LittleEndian.Uint32(b[24:]),
		length:     binary.LittleEndian.Uint32(b[28:]),
	}
	return h, h.logID == logID && h.sum == checksum(b[4:batchHeaderSize])
}

func appendRecord(buf []byte, kind byte, body []byte) []byte {
	buf = append(buf, kind)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(body)))
	return append(buf, body...)
}

// appendMessage is appendRecord for a message, encoded in place.
func appendMessage(buf []byte, kind byte, m proto.Message) ([]byte, error) {
	start := len(buf)
	buf = append(buf, kind, 0, 0, 0, 0)
	buf, err := proto.MarshalOptions{}.MarshalAppend(buf, m)
	if err != nil {
		return buf, err
	}
	size := len(buf) - start - recordHeaderSize
	if size > math.MaxUint32 {
		return buf, fmt.Errorf("a record of %d bytes is too large", size)
	}
	binary.LittleEndian.PutUint32(buf[start+1:], uint32(size))
	return buf, nil
}

// nextRecord takes the first record off payload, which is not empty. The body is a part of payload.
func nextRecord(payload []byte) (kind byte, body, rest []byte, err error) {
	if len(payload) < recordHeaderSize {
		return 0, nil, nil, errors.New("a record header is cut short")
	}
	kind = payload[0]
	size := uint64(binary.LittleEndian.Uint32(payload[1:]))
	rest = payload[recordHeaderSize:]
	if size > uint64(len(rest)) {
		return 0, nil, nil, fmt.Errorf("a record of %d bytes does not fit into the %d that are left of its batch", size, len(rest))
	}
	return kind, rest[:size], rest[size:], nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func roundUp(n int64) int64 { return (n + sectorSize - 1) / sectorSize * sectorSize }
