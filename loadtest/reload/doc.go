// Package reload tests with real processes that a proxy takes over what its files hold while clients use it: certificates, revocation
// lists, tenants, limits and the log level. Nobody who may stay is disturbed by it, which watches show that are checked for gaps;
// who may not is told why; and a file that is bad changes nothing.
//
// The nouns: the site (a member, and a proxy with files of its own that asks clients for certificates), and the follower (a watch of a
// tenant who must see each write of another process, once and in order).
package reload
