package wire

// Keyed is a kind of message with keys in it, which Namespace rewrites.
type Keyed uint8

// The kinds of etcd's API; NoKeys is every other. Those of etcd's Lock and Election services are below.
const (
	NoKeys Keyed = iota
	RangeRequestKeys
	RangeResponseKeys
	RangeStreamResponseKeys
	PutRequestKeys
	PutResponseKeys
	DeleteRangeRequestKeys
	DeleteRangeResponseKeys
	TxnRequestKeys
	TxnResponseKeys
	WatchRequestKeys
	WatchResponseKeys
	LeaseTimeToLiveResponseKeys
	LockRequestKeys
	LockResponseKeys
	UnlockRequestKeys
	CampaignRequestKeys
	CampaignResponseKeys
	ProclaimRequestKeys
	LeaderRequestKeys // of Leader and of Observe
	LeaderResponseKeys
	ResignRequestKeys

	compareKeys
	requestOpKeys
	responseOpKeys
	watchCreateKeys
	watchCancelKeys
	watchProgressKeys
	eventKeys
	keyValueKeys
	leaderKeyKeys
	ownLeaderKeys
)

// role is what the bytes of a field are.
type role uint8

const (
	opaque      role = iota // no key
	nested                  // a message
	requiredKey             // a key; a request with an empty one is refused by upstream
	watchedKey              // a key; an empty or missing one is the smallest
	keyPrefix               // what upstream makes a key of by appending to it; it may be empty or missing
	rangeEnd                // the end of a range
	ownKey                  // in an answer, a key of the client's; it is always there
	listedKey               // in an answer, a key of a list in which there may be others'
)

// layout is a kind of message: of a request all fields that hold bytes, of an answer those with keys.
type layout struct {
	name   string
	fields []field
}

type field struct {
	num  byte // of those that are added when they are missing below 16
	role role
	in   Keyed // what is nested
}

// find returns the index of the field that a tag begins; -1 if there is none.
func (l *layout) find(tag uint64) int {
	for i := range l.fields {
		if tag == uint64(l.fields[i].num)<<3|uint64(bytesType) {
			return i
		}
	}
	return -1
}

// layouts are by kind, as of etcd 3.7. They never change.
var layouts = [...]layout{
	RangeRequestKeys:        {"RangeRequest", []field{{1, requiredKey, 0}, {2, rangeEnd, 0}}},
	RangeResponseKeys:       {"RangeResponse", []field{{2, nested, keyValueKeys}}},
	RangeStreamResponseKeys: {"RangeStreamResponse", []field{{1, nested, RangeResponseKeys}}},
	PutRequestKeys:          {"PutRequest", []field{{1, requiredKey, 0}, {2, opaque, 0}}},
	PutResponseKeys:         {"PutResponse", []field{{2, nested, keyValueKeys}}},
	DeleteRangeRequestKeys:  {"DeleteRangeRequest", []field{{1, requiredKey, 0}, {2, rangeEnd, 0}}},
	DeleteRangeResponseKeys: {"DeleteRangeResponse", []field{{3, nested, keyValueKeys}}},
	TxnRequestKeys: {"TxnRequest", []field{
		{1, nested, compareKeys}, {2, nested, requestOpKeys}, {3, nested, requestOpKeys},
	}},
	TxnResponseKeys: {"TxnResponse", []field{{3, nested, responseOpKeys}}},
	compareKeys:     {"Compare", []field{{3, requiredKey, 0}, {7, opaque, 0}, {64, rangeEnd, 0}}},
	requestOpKeys: {"RequestOp", []field{
		{1, nested, RangeRequestKeys}, {2, nested, PutRequestKeys},
		{3, nested, DeleteRangeRequestKeys}, {4, nested, TxnRequestKeys},
	}},
	responseOpKeys: {"ResponseOp", []field{
		{1, nested, RangeResponseKeys}, {2, nested, PutResponseKeys},
		{3, nested, DeleteRangeResponseKeys}, {4, nested, TxnResponseKeys},
	}},

	WatchRequestKeys: {"WatchRequest", []field{
		{1, nested, watchCreateKeys}, {2, nested, watchCancelKeys}, {3, nested, watchProgressKeys},
	}},
	watchCreateKeys:   {"WatchCreateRequest", []field{{1, watchedKey, 0}, {2, rangeEnd, 0}, {5, opaque, 0}}},
	watchCancelKeys:   {"WatchCancelRequest", nil},
	watchProgressKeys: {"WatchProgressRequest", nil},
	WatchResponseKeys: {"WatchResponse", []field{{11, nested, eventKeys}}},
	eventKeys:         {"Event", []field{{2, nested, keyValueKeys}, {3, nested, keyValueKeys}}},
	keyValueKeys:      {"KeyValue", []field{{1, ownKey, 0}}},

	LeaseTimeToLiveResponseKeys: {"LeaseTimeToLiveResponse", []field{{5, listedKey, 0}}},

	LockRequestKeys:      {"LockRequest", []field{{1, keyPrefix, 0}}},
	LockResponseKeys:     {"LockResponse", []field{{2, ownKey, 0}}},
	UnlockRequestKeys:    {"UnlockRequest", []field{{1, requiredKey, 0}}},
	CampaignRequestKeys:  {"CampaignRequest", []field{{1, keyPrefix, 0}, {3, opaque, 0}}},
	CampaignResponseKeys: {"CampaignResponse", []field{{2, nested, ownLeaderKeys}}},
	ProclaimRequestKeys:  {"ProclaimRequest", []field{{1, nested, leaderKeyKeys}, {2, opaque, 0}}},
	LeaderRequestKeys:    {"LeaderRequest", []field{{1, keyPrefix, 0}}},
	LeaderResponseKeys:   {"LeaderResponse", []field{{2, nested, keyValueKeys}}},
	ResignRequestKeys:    {"ResignRequest", []field{{1, nested, leaderKeyKeys}}},
	leaderKeyKeys:        {"LeaderKey", []field{{1, keyPrefix, 0}, {2, requiredKey, 0}}},
	ownLeaderKeys:        {"LeaderKey", []field{{1, ownKey, 0}, {2, ownKey, 0}}},
}
