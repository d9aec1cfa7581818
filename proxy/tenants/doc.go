// Package tenants keeps the clients of one proxy out of each other's way: who is whose, how much each may ask for, and what
// each may store.
//
// The nouns:
//
//   - Table: everybody there is, and the gate that each RPC of a forwarding server comes through.
//   - standing: what a tenants file and limits come to. RPCs are judged by the one there is when they come; Reload makes another.
//   - lasting: the streams that are open, which a reload looks at.
//   - tenant: an entry of the tenants file (tenantsFile says what is in it): a namespace, who belongs to it, and what is
//     allowed there. Who belongs to none is of the default one. A guest shares the namespace of another tenant, and its quota.
//   - Identity: whom an RPC is counted for: a tenant, or a user, a common name or an address.
//   - account: what an Identity has in flight, and has left of its Limits.
//   - visit: one RPC, from Enter to Leave.
//   - demand: what a request asks for, as far as it matters who asks; class: what a method does to others.
//   - usage: what a namespace with a quota holds, and what the writes in flight may add, each by its reservation.
//   - tracker: who keeps a usage current, with one following (a watch) after another.
//   - ledger: whose each lease is.
//
// Invariants: nobody is of a tenant without having shown a token that upstream has accepted, or a certificate; neither the number of
// accounts nor that of questions to upstream depends on what clients claim to be; a key is in one namespace at most; a write that could take a namespace above its quota is not let
// through, in whatever order those in flight arrive; what a method does to others is known, or the method is not for who has
// a namespace of their own.
//
// Callers: proxy makes the Table, gives it to grpcapi as its Gate, and asks it whose turn a call upstream is.
package tenants
