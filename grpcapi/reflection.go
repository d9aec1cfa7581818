package grpcapi

import (
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalphapb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// registerReflection adds gRPC's reflection service, with which grpcurl and the like find out what gs serves.
func registerReflection(s grpc.ServiceRegistrar, gs *grpc.Server) error {
	files, err := linkedFiles()
	if err != nil {
		return fmt.Errorf("link the descriptors of all messages: %w", err)
	}
	o := reflection.ServerOptions{Services: gs, DescriptorResolver: files}
	reflectionpb.RegisterServerReflectionServer(s, reflection.NewServerV1(o))
	reflectionalphapb.RegisterServerReflectionServer(s, reflection.NewServer(o))
	return nil
}

// linkedFiles returns the descriptors of every message in the program, each file with those that it imports.
//
// In the registry of the protobuf package those of etcd's api module have none: most of etcd's files import each other by
// their path in its repository and are registered without it, so that a client would be told of rpc.proto and not find what
// that imports. Here they have their whole path.
func linkedFiles() (*protoregistry.Files, error) {
	set := &descriptorpb.FileDescriptorSet{}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		d := protodesc.ToFileDescriptorProto(f)
		if strings.HasPrefix(d.GetOptions().GetGoPackage(), etcdPackages) {
			d.Name = proto.String(wholePath(f))
			for i, path := range d.Dependency {
				if dep, err := protoregistry.GlobalFiles.FindFileByPath(path); err == nil {
					d.Dependency[i] = wholePath(dep)
				}
			}
		}
		set.File = append(set.File, d)
		return true
	})
	return protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(set)
}

const etcdPackages = "go.etcd.io/etcd/api/v3/"

// wholePath is the path by which others import f.
func wholePath(f protoreflect.FileDescriptor) string {
	options, _ := f.Options().(*descriptorpb.FileOptions)
	folder, ok := strings.CutPrefix(options.GetGoPackage(), etcdPackages)
	if !ok {
		return f.Path()
	}
	return "etcd/api/" + folder + "/" + f.Path()
}
