package wire

import "fmt"

// RangeResponse is a decoded etcdserverpb.RangeResponse, but for its KeyValues, which Unmarshal hands out one by one.
type RangeResponse struct {
	Header Header
	More   bool
	Count  int64
}

// Unmarshal decodes b into r in one pass, and calls each with every encoded KeyValue in the order of b, which they point
// into. None of r is known before it returns: a server writes the header first, but need not. An error of each ends it and
// is returned. For the other errors see RangeRequest.Unmarshal. With a nil each the KeyValues are passed over, malformed
// ones too, so that it costs next to nothing however large they are.
func (r *RangeResponse) Unmarshal(b []byte, each func(kv []byte) error) error {
	*r = RangeResponse{}
	var kv KeyValue
	var v uint64
	var body []byte
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1<<3 | uint64(bytesType):
			if body, i = readBytes(b, i); i >= 0 {
				if err := r.Header.merge(body); err != nil {
					return fmt.Errorf("decode RangeResponse: field at offset %d: %w", at, err)
				}
			}
		case 2<<3 | uint64(bytesType):
			if body, i = readBytes(b, i); i >= 0 && each != nil {
				if err := kv.Unmarshal(body); err != nil {
					return fmt.Errorf("decode RangeResponse: field at offset %d: %w", at, err)
				}
				if err := each(body); err != nil {
					return err
				}
			}
		case 3 << 3:
			v, i = readVarint(b, i)
			r.More = v != 0
		case 4 << 3:
			v, i = readVarint(b, i)
			r.Count = int64(v)
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("RangeResponse", at)
		}
	}
	return nil
}

// UnmarshalStream is Unmarshal for a RangeStreamResponse, which is a RangeResponse in another message. As with
// UnmarshalStreamHeader, one that is split over two fields has the first part.
func (r *RangeResponse) UnmarshalStream(b []byte, each func(kv []byte) error) error {
	body, err := firstMessage(b)
	if err != nil {
		return err
	}
	return r.Unmarshal(body, each)
}
