package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/auth"
	"weir/core/wal"
	"weir/grpcapi/wire"
)

var errInjected = errors.New("injected disk failure")

// faultFS fails the n-th write or sync, and every one after it, as a disk that has gone does. A write that fails
// has written its first half.
type faultFS struct {
	wal.FS
	left atomic.Int64 // operations that still succeed
}

func (f *faultFS) allow() bool { return f.left.Add(-1) >= 0 }

func (f *faultFS) Create(path string) (wal.File, error) { return f.wrap(f.FS.Create(path)) }
func (f *faultFS) Open(path string) (wal.File, error)   { return f.wrap(f.FS.Open(path)) }

func (f *faultFS) wrap(file wal.File, err error) (wal.File, error) {
	if err != nil {
		return nil, err
	}
	return faultFile{file, f}, nil
}

type faultFile struct {
	wal.File
	fs *faultFS
}

func (f faultFile) WriteAt(p []byte, off int64) (int, error) {
	if f.fs.allow() {
		return f.File.WriteAt(p, off)
	}
	n, err := f.File.WriteAt(p[:len(p)/2], off)
	return n, errors.Join(errInjected, err)
}

func (f faultFile) Sync() error {
	if f.fs.allow() {
		return f.File.Sync()
	}
	return errInjected
}

// At whichever operation the log's disk fails, the member ends with that failure, and a restart on a good disk has
// every write that was acknowledged and none that was not asked for.
func TestAnEntryThatCannotBeAppliedEndsTheMemberAndIsNotInTheStore(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	done := make(chan error, 1)
	go func() {
		_, err := n.propose(context.Background(), 99, auth.Identity{}, []byte("from another weir"), nil)
		done <- err
	}()
	<-n.Failed()
	applied := n.applied.Load()
	if err := n.Close(); err == nil || !strings.Contains(err.Error(), "kind 99") {
		t.Errorf("close: %v", err)
	}
	if err := <-done; !errors.Is(err, rpctypes.ErrGRPCStopped) {
		t.Errorf("who waits for it is told %v", err)
	}
	n, err := Open(Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	<-n.Failed() // it is not skipped
	if err := n.Err(); !strings.Contains(err.Error(), "kind 99") || n.applied.Load() != applied {
		t.Errorf("after a restart: %v at %d, before at %d", err, n.applied.Load(), applied)
	}
	n.Close()
}

func TestNoAcknowledgedWriteIsLostWhicheverLogWriteFails(t *testing.T) {
	const writes = 12
	for n := int64(0); ; n++ {
		dir := t.TempDir()
		disk := &faultFS{FS: wal.OS()}
		disk.left.Store(n)
		acknowledged, err := writeUntilFailure(t, Config{DataDir: dir, LogFS: disk}, writes)
		if err == nil {
			if n < writes {
				t.Fatalf("%d operations were enough for %d writes", n, writes)
			}
			return
		}
		if !errors.Is(err, errInjected) {
			t.Fatalf("operation %d: the member ended with %v", n, err)
		}
		member := openNode(t, dir)
		got := mustRange(t, member, &wire.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
		for i := range acknowledged {
			if i >= len(got.Kvs) || string(got.Kvs[i].Value) != fmt.Sprint(i) {
				t.Errorf("operation %d: of %d acknowledged writes %d are there", n, acknowledged, len(got.Kvs))
				break
			}
		}
		// The write during which the disk failed may be there or not.
		if len(got.Kvs) > acknowledged+1 || got.Header.Revision != int64(1+len(got.Kvs)) {
			t.Errorf("operation %d: %d keys at revision %d after %d acknowledged writes", n, len(got.Kvs), got.Header.Revision, acknowledged)
		}
		closeNode(t, member)
	}
}

// writeUntilFailure puts k00, k01, ... and returns how many were acknowledged, and what ended the member, if
// anything did.
func writeUntilFailure(t *testing.T, cfg Config, writes int) (acknowledged int, failure error) {
	n, err := Open(cfg)
	if err != nil {
		return 0, err
	}
	defer n.Close()
	for ; acknowledged < writes; acknowledged++ {
		if acknowledged == writes/2 {
			if err := n.store.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tryPut(t, n, &pb.PutRequest{Key: fmt.Appendf(nil, "k%02d", acknowledged), Value: fmt.Append(nil, acknowledged)}); err != nil {
			<-n.Failed()
			return acknowledged, n.Err()
		}
	}
	return acknowledged, nil
}
