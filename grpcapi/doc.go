// Package grpcapi speaks the etcd v3 API on the wire, once for core and proxy.
package grpcapi
