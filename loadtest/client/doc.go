// Package client is a client of etcd's API that costs next to nothing, to load servers which share its machine.
//
// A [Conn] is one connection, with any number of RPCs on it; a [Handler] is given what comes, as encoded messages, on the one
// goroutine that reads the connection. A [Group] is many connections with their readers, of which none may fail. Requests
// are encoded by the caller, with google.golang.org/protobuf or by hand, and of answers [EachField] and its like read only what
// is wanted.
//
// What holds: messages of an RPC come in order and whole, each once. Windows of HTTP/2 are kept, in both directions: what the
// server does not take yet waits here, up to a bound. An RPC's end is told once; the end of the connection is the error of Read.
//
// It is used by the benches and the suite of this module. What is done once, to set something up, is as well done with grpc-go's
// client (package target).
package client
