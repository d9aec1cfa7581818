package tenants

import (
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// class is what a method does to others. What is not known may do anything.
type class uint8

const (
	changesAll class = iota // what belongs to everybody
	readsAll                // likewise
	writes                  // keys and leases
	reads                   // keys, leases, and what everybody may know
	enters                  // comes before it is known who somebody is
)

// classOf is the class of a method. That of KV.Txn, Maintenance.Alarm and Auth.UserGet depends on the request; it is that of
// the worst.
func classOf(method string) class {
	switch method {
	case pb.Auth_Authenticate_FullMethodName, pb.Auth_AuthStatus_FullMethodName:
		return enters
	case pb.KV_Range_FullMethodName, pb.KV_RangeStream_FullMethodName, pb.Watch_Watch_FullMethodName,
		pb.Lease_LeaseTimeToLive_FullMethodName, pb.Cluster_MemberList_FullMethodName, pb.Maintenance_Status_FullMethodName,
		lockpb.Election_Leader_FullMethodName, lockpb.Election_Observe_FullMethodName:
		return reads
	case pb.KV_Put_FullMethodName, pb.KV_DeleteRange_FullMethodName, pb.KV_Txn_FullMethodName,
		pb.Lease_LeaseGrant_FullMethodName, pb.Lease_LeaseRevoke_FullMethodName, pb.Lease_LeaseKeepAlive_FullMethodName,
		lockpb.Lock_Lock_FullMethodName, lockpb.Lock_Unlock_FullMethodName,
		lockpb.Election_Campaign_FullMethodName, lockpb.Election_Proclaim_FullMethodName, lockpb.Election_Resign_FullMethodName:
		return writes
	case pb.Lease_LeaseLeases_FullMethodName, pb.Maintenance_Hash_FullMethodName, pb.Maintenance_HashKV_FullMethodName,
		pb.Maintenance_Snapshot_FullMethodName, pb.Auth_UserGet_FullMethodName, pb.Auth_UserList_FullMethodName,
		pb.Auth_RoleGet_FullMethodName, pb.Auth_RoleList_FullMethodName:
		return readsAll
	}
	for _, s := range []string{"/grpc.health.v1.Health/", "/grpc.reflection."} {
		if strings.HasPrefix(method, s) {
			return enters
		}
	}
	return changesAll
}

// readsOnly tells whether who may only read may have a method of the class, unless there is more to it.
func readsOnly(c class) bool { return c != writes && c != changesAll }

// lane is what an RPC is counted with.
type lane uint8

const (
	callLane  lane = iota // unary RPCs and streams
	pingLane              // streams of keepalives: who has too many calls in flight does not lose its leases by that
	watchLane             // streams of watches
	lanes
)

func laneOf(method string) lane {
	switch method {
	case pb.Lease_LeaseKeepAlive_FullMethodName, wire.PingsMethod:
		return pingLane
	case pb.Watch_Watch_FullMethodName:
		return watchLane
	}
	return callLane
}
