package main

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// mirror has the keys below a prefix as they are in the store, and prints each change.
//
// The client resumes a watch by itself when a server goes away, with the first change that it has not delivered. Only when the
// store has been compacted beyond that meanwhile, the changes in between are gone, and the watch ends. Then the keys are read
// anew, and what differs is what has changed.
type mirror struct {
	prefix string
	keys   map[string]int64 // the revision of each
}

func newMirror(prefix string) *mirror { return &mirror{prefix: prefix, keys: map[string]int64{}} }

// run goes on until ctx ends.
func (m *mirror) run(ctx context.Context, client *clientv3.Client) error {
	for {
		revision, err := m.read(ctx, client)
		if err == nil {
			err = m.watch(ctx, client, revision+1)
		}
		if ctx.Err() != nil {
			return err
		}
		fmt.Println("again, because of:", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *mirror) read(ctx context.Context, client *clientv3.Client) (revision int64, err error) {
	r, err := client.Get(ctx, m.prefix, clientv3.WithPrefix())
	if err != nil {
		return 0, err
	}
	there := map[string]bool{}
	for _, kv := range r.Kvs {
		there[string(kv.Key)] = true
		m.put(kv)
	}
	for key := range m.keys {
		if !there[key] {
			m.remove(key)
		}
	}
	return r.Header.Revision, nil
}

// watch ends with an error, if only with that of ctx.
func (m *mirror) watch(ctx context.Context, client *clientv3.Client, from int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A member that has lost its leader would be silent; with this the watch moves to another.
	for r := range client.Watch(clientv3.WithRequireLeader(ctx), m.prefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if err := r.Err(); err != nil {
			return err
		}
		for _, e := range r.Events {
			if e.Type == clientv3.EventTypeDelete {
				m.remove(string(e.Kv.Key))
			} else {
				m.put(e.Kv)
			}
		}
	}
	return fmt.Errorf("the watch ended: %w", context.Cause(ctx))
}

func (m *mirror) put(kv *mvccpb.KeyValue) {
	if key := string(kv.Key); m.keys[key] != kv.ModRevision {
		m.keys[key] = kv.ModRevision
		fmt.Println("PUT", key, string(kv.Value))
	}
}

func (m *mirror) remove(key string) {
	delete(m.keys, key)
	fmt.Println("DELETE", key)
}
