// Package transport is to carry raft messages between the members of a core; it may drop any of them.
//
// There is nothing here yet. A core has one member, which has nobody to write to.
package transport
