package grpcapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Auth is the users, their roles, and what those permit. Responses come with their header.
//
// A Backend permits what it carries out for whoever wire.CredentialsOf names, so nothing else of authentication is here
// but the watches, which do not reach it.
type Auth interface {
	WatchPermits

	AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error)
	AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error)
	AuthStatus(ctx context.Context, r *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error)
	Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error)
	UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error)
	UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error)
	UserList(ctx context.Context, r *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error)
	UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error)
	UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error)
	UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error)
	UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error)
	RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error)
	RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error)
	RoleList(ctx context.Context, r *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error)
	RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error)
	RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error)
	RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error)
}

func registerAuth(s grpc.ServiceRegistrar, b Backend) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.Auth_ServiceDesc.ServiceName,
		Methods: []grpc.MethodDesc{
			method("AuthEnable", b, b.AuthEnable),
			method("AuthDisable", b, b.AuthDisable),
			method("AuthStatus", b, b.AuthStatus),
			method("Authenticate", b, b.Authenticate),
			method("UserAdd", b, b.UserAdd),
			method("UserGet", b, b.UserGet),
			method("UserList", b, b.UserList),
			method("UserDelete", b, b.UserDelete),
			method("UserChangePassword", b, b.UserChangePassword),
			method("UserGrantRole", b, b.UserGrantRole),
			method("UserRevokeRole", b, b.UserRevokeRole),
			method("RoleAdd", b, b.RoleAdd),
			method("RoleGet", b, b.RoleGet),
			method("RoleList", b, b.RoleList),
			method("RoleDelete", b, b.RoleDelete),
			method("RoleGrantPermission", b, b.RoleGrantPermission),
			method("RoleRevokePermission", b, b.RoleRevokePermission),
		},
	}, nil)
}
