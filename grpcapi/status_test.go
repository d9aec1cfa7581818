package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestErrorsLeaveWithEtcdsCodeAndText(t *testing.T) {
	cases := []struct {
		err  error
		code codes.Code
		text string
	}{
		{nil, codes.OK, ""},
		{rpctypes.ErrGRPCCompacted, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
		{rpctypes.ErrCompacted, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
		{fmt.Errorf("read: %w", rpctypes.ErrGRPCNoSpace), codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded"},
		{fmt.Errorf("read: %w", rpctypes.ErrNoSpace), codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded"},
		{fmt.Errorf("wait: %w", context.Canceled), codes.Canceled, "context canceled"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "context deadline exceeded"},
		{errors.New("disk on fire"), codes.Unknown, "disk on fire"},
	}
	for _, c := range cases {
		if s := status.Convert(toStatus(c.err)); s.Code() != c.code || s.Message() != c.text {
			t.Errorf("%v: got %v", c.err, s)
		}
	}
}
