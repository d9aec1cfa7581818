package wire

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// A field of a protobuf message starts with a tag: its number << 3 | its wire type. All fields that this package
// knows have a number below 16, so that their tags are single bytes.
//
// Readers take the message and an offset and return the offset behind what they read, or a negative one when the
// message is malformed.

const (
	varintType = byte(protowire.VarintType)
	bytesType  = byte(protowire.BytesType)
)

const (
	maxVarintFieldSize = 1 + 10
	maxPrefixSize      = 1 + 10 // tag and length
)

// malformed is the error of a message whose field at offset at cannot be read.
func malformed(message string, at int) error {
	return fmt.Errorf("decode %s: malformed field at offset %d", message, at)
}

// readVarint reads the varint at b[i:]: at most 10 bytes and 64 bits, but as much longer than needed as it likes.
func readVarint(b []byte, i int) (v uint64, next int) {
	for shift := uint(0); shift < 64 && i < len(b); shift += 7 {
		c := b[i]
		i++
		if c < 0x80 {
			if shift == 63 && c > 1 {
				break
			}
			return v | uint64(c)<<shift, i
		}
		v |= uint64(c&0x7f) << shift
	}
	return 0, -1
}

// readBytes reads the length at b[i:] and the bytes that follow it. The result shares b, but has no spare
// capacity, so that appending to it cannot change b.
func readBytes(b []byte, i int) ([]byte, int) {
	n, i := readVarint(b, i)
	if i < 0 || n > uint64(len(b)-i) {
		return nil, -1
	}
	end := i + int(n)
	return b[i:end:end], end
}

// skipField skips the value at b[i:] of a field that is unknown, or known with another wire type. When the tag's
// field number is not valid, i does not matter.
func skipField(b []byte, i int, tag uint64) int {
	num := tag >> 3
	if num < uint64(protowire.MinValidNumber) || num > uint64(protowire.MaxValidNumber) {
		return -1
	}
	n := protowire.ConsumeFieldValue(protowire.Number(num), protowire.Type(tag&7), b[i:])
	if n < 0 {
		return -1
	}
	return i + n
}

// appendVarint appends a varint field unless it is zero, which proto3 does not write.
func appendVarint(dst []byte, num byte, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(append(dst, num<<3|varintType), v)
}

// appendBool appends a bool field unless it is false.
func appendBool(dst []byte, num byte, v bool) []byte {
	if !v {
		return dst
	}
	return append(dst, num<<3|varintType, 1)
}

// appendBytes appends a bytes or string field unless it is empty.
func appendBytes[T []byte | string](dst []byte, num byte, v T) []byte {
	if len(v) == 0 {
		return dst
	}
	return append(appendPrefix(dst, num, len(v)), v...)
}

// appendMessage appends an embedded message, which is written even when it is empty.
func appendMessage(dst []byte, num byte, body []byte) []byte {
	return append(appendPrefix(dst, num, len(body)), body...)
}

// appendPrefix appends tag and length of a field of n bytes that follow.
func appendPrefix(dst []byte, num byte, n int) []byte {
	return protowire.AppendVarint(append(dst, num<<3|bytesType), uint64(n))
}

// sizeVarint, sizeBytes and sizeMessage are the lengths of what the functions above append.

func sizeVarint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func sizeBool(v bool) int {
	if !v {
		return 0
	}
	return 2
}

func sizeBytes(n int) int {
	if n == 0 {
		return 0
	}
	return sizeMessage(n)
}

func sizeMessage(n int) int { return 1 + protowire.SizeVarint(uint64(n)) + n }
