package suite

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/load"
)

// revision is that of the store now.
func (h *externalHost) revision(ctx context.Context, s *System) (at int64, err error) {
	err = h.ask(ctx, s, 0, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(Prefix), RangeEnd: load.PrefixEnd(Prefix), CountOnly: true})
		at = r.GetHeader().GetRevision()
		return err
	})
	return at, err
}

// end says what the run has left in the target's history, which it takes away if it is asked to. A run that was cut off leaves no more.
func (h *externalHost) end(ctx context.Context) (caveat string, err error) {
	ctx = context.WithoutCancel(ctx)
	if h.began == 0 {
		return "", nil // it has answered nothing, and was written nothing
	}
	s, err := h.system(ctx)
	if err != nil {
		return "", err
	}
	at, err := h.revision(ctx, s)
	if err != nil {
		return "", fmt.Errorf("how long the history of %s is now: %w", h.Name, err)
	}
	caveat = fmt.Sprintf("While it ran the history of `%s` grew from revision %d to %d.", h.Name, h.began, at)
	if !h.Compact {
		return caveat + " It was not compacted and not defragmented: what was deleted stays in it until that is done.", nil
	}
	if err := h.compact(ctx, s, at); err != nil {
		return caveat + " It could not be compacted.", err
	}
	return caveat + " Then it was compacted, and all endpoints were defragmented.", nil
}

// compact takes the history up to a revision away, and gives its room back.
func (h *externalHost) compact(ctx context.Context, s *System, at int64) error {
	if err := h.ask(ctx, s, 0, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewKVClient(conn).Compact(ctx, &pb.CompactionRequest{Revision: at, Physical: true})
		return err
	}); err != nil {
		return fmt.Errorf("compact the history of %s: %w", h.Name, err)
	}
	var errs []error
	for i := range h.Endpoints {
		errs = append(errs, h.ask(ctx, s, i, func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := pb.NewMaintenanceClient(conn).Defragment(ctx, &pb.DefragmentRequest{})
			return err
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("defragment %s: %w", h.Name, err)
	}
	return nil
}
