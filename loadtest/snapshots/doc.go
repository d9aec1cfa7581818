// Package snapshots tests the ways between etcd and weir: what `etcdctl snapshot save` takes from either, `core snapshot restore` and
// `etcdutl snapshot restore` make a cluster of, in which everything is as it was: keys with their history, leases, users, roles and
// alarms. All with real programs; from etcd to etcd too, which proves the tests.
package snapshots
