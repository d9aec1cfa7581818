// Package fair divides the calls that a proxy has under way upstream among those who make them.
//
// The nouns:
//
//   - Pool: a number of slots. A call upstream holds a Slot while it is under way.
//   - cell: who holds a slot that was taken while nobody waited. It is counted for an account when somebody begins to wait.
//   - account: on whose behalf calls are made, with a weight. Its share are the slots times its weight, divided by the
//     weights of all accounts that hold slots or wait for them.
//   - queue: the calls of one account that wait, in the order in which they came.
//   - tag: what an account has had, in seconds of a slot while somebody waited, divided by its weight. The lowest is served first.
//
// Invariants: never more slots are held than there are; no slot is free while a call waits (so nobody gives up anything
// for who does not ask); while somebody waits who holds less than the account's share, no slot goes to an account that
// holds its share or more; what waits is bounded in bytes, and no account can fill all of them; an account that holds
// nothing and waits for nothing is forgotten; while nobody waits no lock is taken.
//
// Callers: the proxy takes a slot for each short unary call that it forwards, when it is known who makes it, and for each part of a
// RangeStream until it is there. Other streams, the pings of leases, watches and the proxy's own calls take none, and so wait
// for nobody.
package fair
