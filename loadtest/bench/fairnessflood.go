package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// floodedList is how many keys a list has of a flood of lists.
const floodedList = 1_000

// Flood is what one client asks for, again and again. When it is told to wait it does.
type Flood struct {
	Name string
	send func(ctx context.Context, conn *grpc.ClientConn) error // one request after the other, and the last one's error
}

// Floods is every flood.
func Floods() []Flood {
	return []Flood{{"puts", floodPut}, {"lists", floodList}, {"watches", floodWatch}}
}

// FindFloods finds floods by their names.
func FindFloods(names []string) ([]Flood, error) {
	return find(names, "flood", Floods(), func(f Flood) string { return f.Name })
}

// floodCounts are requests of a flood.
type floodCounts struct{ answered, refused int64 }

// start runs the flood as a process of its own until ctx ends, and keeps counts up to date.
func (f *Flood) start(ctx context.Context, endpoint string, o *FairnessOptions, counts *atomic.Pointer[floodCounts]) error {
	args := append(slices.Clip(o.FloodCommand[1:]), endpoint, f.Name, strconv.Itoa(o.Times*o.share()))
	cmd := exec.CommandContext(ctx, o.FloodCommand[0], args...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start a flood: %w", err)
	}
	var last string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		last = lines.Text()
		var n floodCounts
		if _, err := fmt.Sscan(last, &n.answered, &n.refused); err == nil {
			counts.Store(&n)
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("flood of %s: %w: %s", f.Name, err, last)
	}
	return nil
}

// RunFlood is the process that a FairnessOptions.FloodCommand starts. It ends with ctx, or when nobody reads out any more.
func RunFlood(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 3 {
		return errors.New("a flood is started by bench fairness: it needs an endpoint, a kind of flood, and how many requests at a time")
	}
	kinds, err := FindFloods(args[1:2])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return fmt.Errorf("requests at a time: %w", err)
	}
	conn, err := dialFrom(crowdSize+slices.IndexFunc(Floods(), func(f Flood) bool { return f.Name == args[1] }), args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	var (
		answered, refused atomic.Int64
		asking            sync.WaitGroup
	)
	ctx, cancel := context.WithCancelCause(ctx)
	defer asking.Wait()
	defer cancel(nil)
	for range n {
		asking.Go(func() {
			for ctx.Err() == nil {
				err := kinds[0].send(ctx, conn)
				switch {
				case err == nil:
					answered.Add(1)
				case status.Code(err) == codes.ResourceExhausted:
					refused.Add(1)
					_ = wait(ctx, retryDelay(err)) // the loop sees that ctx has ended
				default:
					cancel(err)
				}
			}
		})
	}
	for {
		if _, err := fmt.Fprintln(out, answered.Load(), refused.Load()); err != nil {
			return err
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// retryDelay is when who was refused may come again.
func retryDelay(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.RetryDelay.AsDuration()
		}
	}
	return 100 * time.Millisecond
}

func floodPut(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: floodedKey(rand.IntN(floodedKeys)), Value: make([]byte, 256)})
	return err
}

func floodList(ctx context.Context, conn *grpc.ClientConn) error {
	from := rand.IntN(floodedKeys - floodedList)
	r := &pb.RangeRequest{Key: floodedKey(from), RangeEnd: floodedKey(from + floodedList)}
	return conn.Invoke(ctx, pb.KV_Range_FullMethodName, r, nil, grpc.ForceCodecV2(unreadCodec{}))
}

// floodWatch opens a stream of watches for as many as a client may have where that is limited, and ends it.
func floodWatch(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	for range limitWatches {
		create := &pb.WatchCreateRequest{Key: floodedKey(rand.IntN(floodedKeys))}
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		for len(r.Events) > 0 { // of another watch
			if r, err = stream.Recv(); err != nil {
				return err
			}
		}
		if r.Canceled {
			return rpctypes.ErrGRPCRequestTooManyRequests
		}
	}
	return nil
}

// unreadCodec leaves answers as they are: the clients share the machine with the servers.
type unreadCodec struct{}

// Marshal is part of encoding.CodecV2.
func (unreadCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("encode a request: %T is no message", v)
	}
	b, err := proto.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

// Unmarshal is part of encoding.CodecV2.
func (unreadCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

// Name is part of encoding.CodecV2.
func (unreadCodec) Name() string { return "proto" }
