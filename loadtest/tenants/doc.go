// Package tenants tests with real processes that the tenants of one proxy neither see nor disturb each other, whichever way
// they show who they are, and that quotas and limits hold.
//
// The nouns: the site (a member that has authentication on, and two proxies before it with one tenants file, one for clients
// that show tokens and one with TLS for those that show certificates), the visitor (a client of one of them), and the store (a
// client of the member, which is root and sees everything). All users have all rights at the member: what keeps the tenants
// apart is the proxy alone.
package tenants
