package wire

import "context"

// Visit is one RPC of a client at a server that serves several, some of which must not get in the others' way. Its methods
// are called by the RPC's own goroutines, Message by one at a time, the others concurrently.
//
// Who reads a client's stream may notice its end a moment after Leave was called, or meanwhile. So Message, Watch and the
// methods of PingRights may still be called then. Nobody is told what they return, and they must not change what Leave has
// settled.
type Visit interface {
	// Namespace goes before every key of the client; "" is none.
	Namespace() string
	// Context ends when the RPC is to end before its own does, because the client may not go on with it: with the error to answer as
	// its cause. It is below that of Enter, and nil of an RPC for which that cannot happen.
	Context() context.Context
	// Message admits one message of a client's stream, as it came, before it is handled. An error ends the RPC. It may wait
	// for upstream; a ping, of a stream of keepalives that is forwarded, for a second at most.
	Message(req Raw) error
	// PingRights says which leases the client may keep alive on this stream; nil is all. It is asked instead of Message, and
	// Sent is not called, for pings that are answered here.
	PingRights() PingRights
	// Sent says that so many bytes were answered which Leave is not given.
	Sent(bytes int)
	// Watch admits one more watch on a stream of watches. An error refuses it, and then Unwatch is not called for it.
	Watch() error
	// Unwatch says that an admitted watch has ended. What Leave follows counts as ended too.
	Unwatch()
	// Leave says, once, that the RPC has ended, with upstream's answer where there is one: not for a stream, and not for what
	// was answered from memory.
	Leave(resp Raw, err error)
}

// PingRights say which leases a client may keep alive. They may be called concurrently.
type PingRights interface {
	// Allows tells that a ping of a lease is allowed, as far as that is known already: false is for Check to decide. It does
	// not wait, and most pings need nothing else.
	Allows(id int64) bool
	// Check refuses a ping for which the client has no right, with the error to answer. It may wait for upstream until ctx
	// ends.
	Check(ctx context.Context, id int64) error
}
