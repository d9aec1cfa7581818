package grpcapi

import "google.golang.org/protobuf/encoding/protowire"

// What a request asks can be told here only if each of its fields is known: a newer etcd may give a read one more option,
// and a decoder skips what it does not know. So these functions look at all fields of an encoded message, without decoding
// it: for a transaction that writes, 70 ns instead of 2 us. They also return false for what cannot be decoded; what they
// return true for may still be no valid request.

// knownRange tells whether each field of an encoded RangeRequest is known.
func knownRange(raw []byte) bool {
	return everyField(raw, func(num protowire.Number, _ []byte) bool { return num <= 13 })
}

// knownReads tells whether an encoded TxnRequest compares and reads, and does nothing else, with fields that are known.
// The first write that it meets ends it.
func knownReads(raw []byte) bool {
	return everyField(raw, func(num protowire.Number, body []byte) bool {
		switch num {
		case 1:
			return everyField(body, knownCompare)
		case 2, 3: // the two branches
			return everyField(body, isKnownRange)
		}
		return false
	})
}

func knownCompare(num protowire.Number, _ []byte) bool {
	return num <= 8 || num == 64 // range_end
}

// isKnownRange is for the fields of a RequestOp, each of which is an operation.
func isKnownRange(num protowire.Number, op []byte) bool { return num == 1 && knownRange(op) }

// everyField tells whether raw is a list of fields that all are ok. body is nil for those that are not length-delimited,
// whatever number they have; the decoder skips a known number of the wrong type.
func everyField(raw []byte, ok func(num protowire.Number, body []byte) bool) bool {
	for len(raw) > 0 {
		num, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return false
		}
		raw = raw[n:]
		var body []byte
		if kind == protowire.BytesType {
			body, n = protowire.ConsumeBytes(raw)
		} else {
			n = protowire.ConsumeFieldValue(num, kind, raw)
		}
		if n < 0 || !ok(num, body) {
			return false
		}
		raw = raw[n:]
	}
	return true
}
