// Package discovery tests with real processes that clients find proxies, and proxies the cluster: that who asks a proxy for
// the members is not led past it, that proxies which register are seen by each other, by etcd's own proxy and by etcd's naming
// client, and that a proxy follows the members of a cluster.
//
// What etcd's own proxy does is tested at that first, where it is right, which proves the test.
package discovery
