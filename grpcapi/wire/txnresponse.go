package wire

import "slices"

// TxnResponse is a decoded etcdserverpb.TxnResponse, but for its header (UnmarshalHeader) and what is in its answers.
type TxnResponse struct {
	Succeeded bool
	Answers   []TxnAnswer // of the operations of the branch that was taken, in their order
}

// TxnAnswer is the answer of one operation. Body, which is not looked into, points into the encoded response. An answer
// of a kind that is unknown, or missing, has the zero Op and no Body.
type TxnAnswer struct {
	Op   TxnOp
	Body []byte
}

// Unmarshal decodes b into r, which keeps b. See RangeRequest.Unmarshal.
func (r *TxnResponse) Unmarshal(b []byte) error {
	*r = TxnResponse{}
	var v uint64
	var body []byte
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 2 << 3:
			v, i = readVarint(b, i)
			r.Succeeded = v != 0
		case 3<<3 | uint64(bytesType):
			if body, i = readBytes(b, i); i >= 0 {
				var a TxnAnswer
				if err := a.unmarshal(body); err != nil {
					return err
				}
				r.Answers = append(r.Answers, a)
			}
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("TxnResponse", at)
		}
	}
	return nil
}

// unmarshal decodes an encoded etcdserverpb.ResponseOp.
func (a *TxnAnswer) unmarshal(b []byte) error {
	var v uint64
	var body []byte
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch op := TxnOp(v >> 3); v {
		case uint64(TxnRange)<<3 | uint64(bytesType), uint64(TxnPut)<<3 | uint64(bytesType),
			uint64(TxnDeleteRange)<<3 | uint64(bytesType), uint64(TxnNested)<<3 | uint64(bytesType):
			body, i = readBytes(b, i)
			if a.Op == op { // two parts of a message, one after the other, are the whole
				body = append(slices.Clip(a.Body), body...)
			}
			a.Op, a.Body = op, body
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("ResponseOp", at)
		}
	}
	return nil
}
