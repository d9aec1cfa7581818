// Package identities tests with real processes that a proxy gives each client what upstream would have given to that
// client, whoever else uses the proxy and whatever becomes of users and roles meanwhile.
//
// The isolation test is a load and an oracle. Its nouns: the place (members, proxies before them, and what such a place
// promises), the identity (a user and the token that is shown), the rights (who may what) and the ledger (which rights there
// were when), the op and the watch (what a client has asked and been given), and the history (what the store itself says has
// been written). An answer is right when the rights that there were at some moment while it was asked for, or as long before
// as the place promises, allow it, and when it holds what the history has. A refusal is right when the rights there were
// while it was asked for refuse it with that very error.
//
// The same runs at a plain etcd first, which proves the oracle, and at etcd's own proxy, which must be found out. -seed
// repeats a failed run as far as the scheduler lets it, and -rounds makes it longer:
//
//	go test ./identities -run Isolation -timeout 2h -args -rounds=500
//
// Beside it stand scenes of one thing each: tokens that expire under load, a member whose restart makes them void, a right that
// is taken away, watches that are opened while authentication is switched on, users who come with certificates, and what etcd's
// own proxy does wrong.
package identities
