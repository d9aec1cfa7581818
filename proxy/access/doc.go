// Package access keeps the clients of a proxy apart: nobody is given from memory, or over a stream that is shared, what
// upstream would not have given to them, and a right that is taken away is gone within a second.
//
// The nouns:
//
//   - Guard: what the proxy asks. All else is its parts.
//   - Regime: what upstream makes possible. Open: authentication is off. Guarded: it is on, and the proxy has an identity of
//     its own that may read what is to be shared. Closed: it is on, and nothing can be shared.
//   - client: who an RPC is from, by a token, else by a certificate, else nobody.
//   - verdict: upstream's word that a token may read a range, now. It is a serializable read of exactly that range at a
//     revision that is never reached, with the client's token: that it is in the future is said only to those who may read.
//     The member answers by itself, in constant time.
//   - own identity: the proxy's token, or its client certificate. The complaint says what keeps it from being of use.
//   - policy: the users and roles of one auth revision, immutable. The roster keeps the newest one. With it the guard judges
//     whom upstream cannot know, who have shown a certificate to the proxy, and watches that have outlived their verdict. It
//     takes an own identity with the role root. It is settled when the users with open watches have been read.
//   - hold: what happens upstream waits until the policy is settled and new enough. See there for other ways, and why not.
//   - stay: a forwarded stream in the proxy's own name, or of watches that upstream has judged once, each message of which is
//     preceded by a look at the policy.
//   - rule: what a method asks for, judged from memory. A request that its rule allows is sent in the proxy's own name.
//   - leaseFindings: what was found out about leases for one request, so that its rule need not ask. leaseSlots: how many leases
//     upstream is asked about at a time. What waits for that is bounded in bytes. goneLeases are those that are known not
//     to be there.
//
// Invariants:
//
//   - What is allowed is allowed by something that was asked at most a second ago, counted from when it was sent, however long it has
//     taken to judge. The caller asks again for what then waits to be sent, or takes upstream long to answer. Only which keys a lease
//     has may be known from before, see leaseFindings.
//   - A regime begins with policies that are asked for in it.
//   - Nobody whose watch is judged is told what happens a second after the right to it was taken away, and what upstream may take
//     to tell, which is waited for: a quarter of a second, after which everything is held. See Hold.
//   - A refusal is never remembered. Who is refused by a policy was so by one that was asked for after the request came.
//   - A verdict belongs to one token, as the client has sent it, and one range. Nothing is inferred from its digest.
//   - A policy is of one auth revision: AuthStatus has shown the same one before and after users and roles were read.
//   - Where something cannot be known the answer is no. A read is then forwarded with what the client has shown, and
//     upstream says what is the matter; a watch ends so that its client comes again.
//   - Tokens and passwords are in no error and no log.
//
// Every request about authentication is a write to the log of etcd. AuthStatus is sent once a second while a policy is
// needed, up to three of those that were spared before, so that who is refused does not wait, and once more behind users and
// roles that were read. A user or role is read at first sight and when something has changed, a bounded number each second; when
// the permissions of one role are all that has changed, no users. Authenticate is sent once a second at most.
package access
