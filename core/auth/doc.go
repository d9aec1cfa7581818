// Package auth knows the users and roles of a cluster, what each may do, and which tokens stand for whom.
//
// # Nouns
//
// A [Store] is all of it for one member. A user has roles and, unless it was made without, a password, kept as a bcrypt
// hash. A role has permissions: to read, to write, or both, on one key or a range of keys. Who has the role root may do
// everything. The revision counts the changes to users and roles. An [Identity] is a user as it was at a revision:
// what a token, or the common name of a client's certificate, is taken for. A token is handed out for a password; it is
// either simple, a random name that the members remember, or a signed JWT, which they need not. A [Record] is a change as
// it is stored, in etcd's layout.
//
// # Who calls it
//
// core does, and only core. It keeps the records with the data, makes a Store of them at start, has it read them anew (Reload,
// [Replacement]) when a snapshot takes the place of the data, and
//
//   - applies the requests that change something, and the ones for a token, from the raft log, one at a time: Apply and
//     AssignToken. What Apply does depends on the request and the state alone, so it comes out the same on every member;
//   - finds out who asks, before a request goes into the log: Identify, IdentifyCN;
//   - asks, when the request is applied or read, whether that identity may do this: the Permit methods; and after a read whether
//     that is so still: Unchanged.
//
// A request is allowed or refused by the users and roles as they are when it is applied. An identity from before the last
// change is refused on keys, with an error at which clients ask for a new token.
//
// # Invariants
//
//   - With authentication off everything is permitted, and no token is handed out.
//   - While it is on, the user root exists and has the role root.
//   - Every change but turning it on counts one revision. The first revision is 1.
//   - No user has a role that does not exist, but for root, which may be given without being there.
//   - What a reader sees is one state, between two changes, never half of one.
//   - While a snapshot takes the place of the data, nobody has the rights of one state in the other.
//   - A user's simple tokens end when its password changes, and when it is deleted.
//   - Errors carry etcd's codes and texts, and a refused request has changed nothing.
package auth
