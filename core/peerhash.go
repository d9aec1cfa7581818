package core

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/core/mvcc"
)

// What members tell each other of the contents of their stores; corruption.go compares it. The calls, in JSON:
//
//	HashKV            hashRequest -> hashAnswer, of which the hash is computed when it is asked for
//	CompactionHashes  nothing     -> a list of mvcc.KVHash, which compactions have left
const (
	callHash             = "HashKV"
	callCompactionHashes = "CompactionHashes"
)

// hashRequest asks for the hash at a revision, which the member computes as soon as it has come to it.
type hashRequest struct {
	Revision int64 `json:"revision"`
}

type hashAnswer struct {
	Hash     mvcc.KVHash `json:"hash"`
	Revision int64       `json:"revision"` // the newest of the store
}

// answerHash computes a hash. For other members it does so once at a time: each takes a processor for as long as it takes to read
// the store.
func (n *Node) answerHash(ctx context.Context, request []byte) ([]byte, error) {
	var r hashRequest
	if err := json.Unmarshal(request, &r); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "weir: decode what hash is asked for: %v", err)
	}
	if r.Revision > n.store.Revision() { // who asks has it, so it is committed
		if err := n.linearizable(ctx); err != nil {
			return nil, err
		}
	}
	select {
	case n.hashing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-n.hashing }()
	hash, revision, err := n.store.ComputeHash(ctx, r.Revision)
	if err != nil {
		return nil, err
	}
	return json.Marshal(hashAnswer{Hash: hash, Revision: revision})
}

func (n *Node) answerCompactionHashes(context.Context, []byte) ([]byte, error) {
	return json.Marshal(n.store.CompactionHashes())
}

// testimony is what another member has told.
type testimony[T any] struct {
	member uint64
	told   T
	err    error // that it has not told anything
}

// askOthers asks all other members at once, for as long as patience.
func askOthers[T any](ctx context.Context, n *Node, call string, request any, patience time.Duration) ([]testimony[T], error) {
	encoded, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode what other members are asked: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var others []testimony[T]
	for _, m := range n.members.records() {
		if m.ID != n.member.ID {
			others = append(others, testimony[T]{member: m.ID})
		}
	}
	var asking sync.WaitGroup
	for i := range others {
		o := &others[i]
		asking.Go(func() {
			var answer []byte
			if answer, o.err = n.callPeer(ctx, o.member, call, encoded); o.err == nil {
				o.err = json.Unmarshal(answer, &o.told)
			}
		})
	}
	asking.Wait()
	return others, nil
}
