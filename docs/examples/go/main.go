package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 && (len(args) != 3 || args[1] != "watch") {
		return errors.New("usage: example HOST:PORT,... [watch PREFIX]")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(args[0], ","),
		DialTimeout: 10 * time.Second,
		// A connection that has silently died is found and replaced.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zap.NewNop(), // it would tell of every retry
	})
	if err != nil {
		return err
	}
	defer client.Close()
	if len(args) == 3 {
		return newMirror(args[2]).run(ctx, client)
	}
	for _, f := range []func(context.Context, *clientv3.Client) error{count, live, exclude} {
		if err := f(ctx, client); err != nil {
			return err
		}
	}
	return nil
}

// count has three goroutines add to one number at the same time. None overwrites what another has added.
func count(ctx context.Context, client *clientv3.Client) error {
	if _, err := client.Put(ctx, "example/go/count", "0"); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Go(func() { errs[i] = increment(ctx, client, "example/go/count") })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r, err := client.Get(ctx, "example/go/count")
	if err != nil {
		return err
	}
	fmt.Println("count:", string(r.Kvs[0].Value))
	return nil
}

// increment writes what it has computed only if nobody has written since it read; else it reads again.
func increment(ctx context.Context, client *clientv3.Client, key string) error {
	for {
		r, err := client.Get(ctx, key)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(r.Kvs[0].Value))
		if err != nil {
			return err
		}
		txn, err := client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", r.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(key, strconv.Itoa(n+1))).
			Commit()
		// An error leaves open whether it was written. Here that ends the program.
		if err != nil || txn.Succeeded {
			return err
		}
	}
}

// live puts a key under the lease of a session, which is renewed until the session is closed, or the program gone for 10 s.
func live(ctx context.Context, client *clientv3.Client) error {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
	if err != nil {
		return err
	}
	if _, err := client.Put(ctx, "example/go/live", "here", clientv3.WithLease(session.Lease())); err != nil {
		return err
	}
	// <-session.Done() would tell that the lease is lost: then somebody else may believe that this program is gone.
	if err := session.Close(); err != nil {
		return err
	}
	r, err := client.Get(ctx, "example/go/live", clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	fmt.Println("keys after the lease:", r.Count)
	return nil
}

// exclude takes a lock, and shows that a second session does not get it.
func exclude(ctx context.Context, client *clientv3.Client) error {
	var sessions [2]*concurrency.Session
	var locks [2]*concurrency.Mutex
	for i := range locks {
		var err error
		if sessions[i], err = concurrency.NewSession(client, concurrency.WithTTL(10)); err != nil {
			return err
		}
		defer sessions[i].Close()
		locks[i] = concurrency.NewMutex(sessions[i], "example/go/lock")
	}
	if err := locks[0].Lock(ctx); err != nil {
		return err
	}
	// Whoever has lost his lease has lost his lock, and may not know it yet. With this in the transactions that he makes under
	// the lock they fail then.
	r, err := client.Txn(ctx).If(locks[0].IsOwner()).Then(clientv3.OpPut("example/go/locked", "by the first")).Commit()
	if err != nil {
		return err
	}
	fmt.Println("written under the lock:", r.Succeeded)
	err = locks[1].TryLock(ctx)
	fmt.Println("for the second it is locked:", errors.Is(err, concurrency.ErrLocked))
	return locks[0].Unlock(ctx)
}
