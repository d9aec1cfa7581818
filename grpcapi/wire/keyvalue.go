package wire

// KeyValue is a decoded mvccpb.KeyValue whose Key and Value point into the encoded message.
type KeyValue struct {
	Key, Value                  []byte
	CreateRevision, ModRevision int64
	Version, Lease              int64
}

// Unmarshal decodes b into kv, which keeps b; see RangeRequest.Unmarshal.
func (kv *KeyValue) Unmarshal(b []byte) error {
	*kv = KeyValue{}
	return kv.merge(b)
}

// merge decodes b into kv, which keeps b, and leaves the fields that b does not have.
func (kv *KeyValue) merge(b []byte) error {
	var v uint64
	for at, i := 0, 0; i < len(b); at = i {
		v, i = readVarint(b, i)
		switch v {
		case 1<<3 | uint64(bytesType):
			kv.Key, i = readBytes(b, i)
		case 2 << 3:
			v, i = readVarint(b, i)
			kv.CreateRevision = int64(v)
		case 3 << 3:
			v, i = readVarint(b, i)
			kv.ModRevision = int64(v)
		case 4 << 3:
			v, i = readVarint(b, i)
			kv.Version = int64(v)
		case 5<<3 | uint64(bytesType):
			kv.Value, i = readBytes(b, i)
		case 6 << 3:
			v, i = readVarint(b, i)
			kv.Lease = int64(v)
		default:
			i = skipField(b, i, v)
		}
		if i < 0 {
			return malformed("KeyValue", at)
		}
	}
	return nil
}

// Size is the length of what Append writes.
func (kv *KeyValue) Size() int {
	return sizeBytes(len(kv.Key)) + sizeVarint(uint64(kv.CreateRevision)) + sizeVarint(uint64(kv.ModRevision)) +
		sizeVarint(uint64(kv.Version)) + sizeBytes(len(kv.Value)) + sizeVarint(uint64(kv.Lease))
}

// Append appends the encoded mvccpb.KeyValue to dst.
func (kv *KeyValue) Append(dst []byte) []byte {
	dst = appendBytes(dst, 1, kv.Key)
	dst = appendVarint(dst, 2, uint64(kv.CreateRevision))
	dst = appendVarint(dst, 3, uint64(kv.ModRevision))
	dst = appendVarint(dst, 4, uint64(kv.Version))
	dst = appendBytes(dst, 5, kv.Value)
	return appendVarint(dst, 6, uint64(kv.Lease))
}
