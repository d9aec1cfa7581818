package targettest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// Main opens the folder of built programs for a TestMain, runs the tests, and ends the process.
func Main(m *testing.M, bin **proc.Bin) {
	Prepare(bin)
	os.Exit(m.Run())
}

// Prepare is what Main does before the tests, for a TestMain that has more to do.
func Prepare(bin **proc.Bin) {
	// Tests with real processes wait far more than they compute.
	err := flag.Set("test.parallel", "64")
	if err == nil {
		*bin, err = proc.OpenBin(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startTimeout is generous: several packages of tests and builds share the machine.
const startTimeout = time.Minute

// Start starts a target with an empty store, which is stopped when the test ends.
func Start(t testing.TB, bin *proc.Bin, kind target.Kind, memberArgs ...string) *target.Target {
	t.Helper()
	return StartFrom(t, bin, kind, filepath.Join(t.TempDir(), "data"), memberArgs...)
}

// StartFrom is Start with the store that is in the directory data.
func StartFrom(t testing.TB, bin *proc.Bin, kind target.Kind, data string, memberArgs ...string) *target.Target {
	t.Helper()
	return StartWith(t, bin, kind, data, target.Options{MemberArgs: memberArgs})
}

// StartWith is StartFrom with options.
func StartWith(t testing.TB, bin *proc.Bin, kind target.Kind, data string, o target.Options) *target.Target {
	t.Helper()
	// A program that does not build fails the test; it does not skip it.
	if err := target.Build(t.Context(), bin, kind); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	tg, err := target.StartWith(ctx, bin, kind, data, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		log := tg.Log()
		if err := tg.Close(); err != nil {
			t.Errorf("stop %s: %v", kind, err)
		}
		if strings.Contains(log, "WARNING: DATA RACE") {
			t.Errorf("%s has a data race:\n%s", kind, log)
		}
		if t.Failed() && testing.Verbose() {
			t.Logf("logs of %s:\n%s", kind, log)
		}
	})
	return tg
}

// Client is a client of etcd's own library, which begins watches again by itself. It is closed when the test ends.
func Client(t testing.TB, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("close client: %v", err)
		}
	})
	return c
}

// Conn is a connection for raw requests that is closed when the test ends.
func Conn(t testing.TB, tg *target.Target) *grpc.ClientConn {
	t.Helper()
	return Dial(t, tg.Endpoint)
}

// StartCluster starts members with empty stores, which are stopped when the test ends.
func StartCluster(t testing.TB, bin *proc.Bin, program proc.Program, o target.ClusterOptions) *target.Cluster {
	t.Helper()
	if _, err := bin.Build(t.Context(), program); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	c, err := target.StartCluster(ctx, bin, program, t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range c.Members {
			showLog(t, m.Process)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// StartProxy starts weir's proxy before the servers at endpoints. It is stopped when the test ends.
func StartProxy(t testing.TB, bin *proc.Bin, endpoints []string, args ...string) *target.Server {
	t.Helper()
	if _, err := bin.Build(t.Context(), proc.Proxy); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	s, err := target.StartProxy(ctx, bin, endpoints, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := s.Stop()
		showLog(t, s.Process)
		if err != nil {
			t.Error(err)
		}
	})
	return s
}

// showLog fails the test if the process had a data race, and shows what it printed if the test failed.
func showLog(t testing.TB, p *proc.Process) {
	t.Helper()
	if strings.Contains(p.Log(), "WARNING: DATA RACE") {
		t.Errorf("%s has a data race:\n%s", p.Name(), p.Log())
	} else if t.Failed() && testing.Verbose() {
		t.Logf("log of %s:\n%s", p.Name(), p.Log())
	}
}

// Dial is a connection to addr for raw requests that is closed when the test ends.
func Dial(t testing.TB, addr string, more ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := target.Dial(addr, more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close connection: %v", err)
		}
	})
	return conn
}

// Want fails the test if what it has got is something else.
func Want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
