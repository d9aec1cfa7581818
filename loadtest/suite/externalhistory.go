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
	at := int64(0)
	s, err := h.system(ctx)
	if err == nil {
		at, err = h.revision(ctx, s)
	}
	switch {
	case err != nil && h.Compact:
		return "", fmt.Errorf("compact the history of %s: %w", h.Name, err)
	case err != nil: // what is wrong with it has its place in the report already
		return fmt.Sprintf("How much the history of `%s` grew while it ran is not known. It was not compacted.", h.Name), nil
	}
	if at == h.began {
		return fmt.Sprintf("The history of `%s` did not grow while it ran.", h.Name), nil
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
