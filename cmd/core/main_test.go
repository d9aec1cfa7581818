package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weir/core/wal"
)

var errDisk = errors.New("the disk is gone")

// brokenFS fails every sync from some moment on.
type brokenFS struct {
	wal.FS
	broken atomic.Bool
}

func (f *brokenFS) Open(path string) (wal.File, error) {
	file, err := f.FS.Open(path)
	return brokenFile{file, f}, err
}

type brokenFile struct {
	wal.File
	fs *brokenFS
}

func (f brokenFile) Sync() error {
	if f.fs.broken.Load() {
		return errDisk
	}
	return f.File.Sync()
}

// logHook calls a function with every message.
type logHook struct {
	slog.Handler
	call func(message string)
}

func (h logHook) Enabled(context.Context, slog.Level) bool { return true }

func (h logHook) Handle(_ context.Context, r slog.Record) error {
	h.call(r.Message)
	return nil
}

func TestAMemberThatFailsEndsTheProcessWithItsError(t *testing.T) {
	for _, moment := range []string{"opened member", "ready to serve client requests"} {
		t.Run(moment, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			o, err := parseOptions([]string{"--data-dir", t.TempDir(), "--listen-client-urls", "unix://" + socket}, nil)
			if err != nil {
				t.Fatal(err)
			}
			disk := &brokenFS{FS: wal.OS()}
			o.core.LogFS = disk
			reached := make(chan struct{}, 1)
			logger := slog.New(logHook{slog.DiscardHandler, func(message string) {
				if message == moment {
					disk.broken.Store(true)
					reached <- struct{}{}
				}
			}})
			ended := make(chan error, 1)
			go func() { ended <- serve(t.Context(), o, logger) }()
			<-reached
			conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// The write that fails, if the member's own at its start has not.
			_, _ = pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: []byte("k")})
			if err := <-ended; !errors.Is(err, errDisk) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
