// Package keyset is what the permissions of a user on keys come to.
//
// The nouns:
//
//   - Set: the keys that permissions of one kind are on. It tells whether a range lies in it.
//   - permission: an authpb.Permission, as it is in a role.
//
// A core and a proxy judge the same users by the same permissions, and must come to the same answer: so this is here once.
//
// Invariants: the conventions of ranges are those of etcd's requests; a range is in a set exactly when each of its keys is on one
// of the permissions, whichever; sets are immutable.
//
// Callers: core/auth and proxy/access. It imports nothing of weir.
package keyset
