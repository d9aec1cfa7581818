package client

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// EachField gives do the fields of the message m in their order, without their tags, until it errs. A field of bytes has its
// length before them: protowire.ConsumeBytes.
func EachField(m []byte, do func(num protowire.Number, typ protowire.Type, field []byte) error) error {
	for len(m) > 0 {
		num, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return fmt.Errorf("decode an answer: %w", protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(num, typ, m[n:])
		if size < 0 {
			return fmt.Errorf("decode an answer: %w", protowire.ParseError(size))
		}
		if err := do(num, typ, m[n:n+size]); err != nil {
			return err
		}
		m = m[n+size:]
	}
	return nil
}

// BytesField is the content of the last field with number num in the message m, nil if there is none.
func BytesField(m []byte, num protowire.Number) ([]byte, error) {
	var b []byte
	err := EachField(m, func(got protowire.Number, typ protowire.Type, field []byte) error {
		if got == num && typ == protowire.BytesType {
			b, _ = protowire.ConsumeBytes(field)
		}
		return nil
	})
	return b, err
}

// VarintField is the number in the last field with number num in the message m, 0 if there is none.
func VarintField(m []byte, num protowire.Number) (int64, error) {
	var v uint64
	err := EachField(m, func(got protowire.Number, typ protowire.Type, field []byte) error {
		if got == num && typ == protowire.VarintType {
			v, _ = protowire.ConsumeVarint(field)
		}
		return nil
	})
	return int64(v), err
}
