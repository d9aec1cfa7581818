package client

// Method is the name of an RPC, "/package.Service/Method".
type Method string

// The methods of etcd's API that clients use most.
const (
	KVRange        Method = "/etcdserverpb.KV/Range"
	KVPut          Method = "/etcdserverpb.KV/Put"
	KVTxn          Method = "/etcdserverpb.KV/Txn"
	KVDeleteRange  Method = "/etcdserverpb.KV/DeleteRange"
	Watch          Method = "/etcdserverpb.Watch/Watch"
	LeaseGrant     Method = "/etcdserverpb.Lease/LeaseGrant"
	LeaseRevoke    Method = "/etcdserverpb.Lease/LeaseRevoke"
	LeaseKeepAlive Method = "/etcdserverpb.Lease/LeaseKeepAlive"
	Authenticate   Method = "/etcdserverpb.Auth/Authenticate"
	Status         Method = "/etcdserverpb.Maintenance/Status"
)
