// Command go is an example for etcd's own client for Go, of what programs do with it most: a transaction, a key that lives as
// long as its program, a lock, and a watch that nothing makes miss a change.
//
//	go run . 127.0.0.1:2379                  # the first three
//	go run . 127.0.0.1:2379 watch jobs/      # prints what changes below jobs/, until it is ended
//
// Several servers are separated by commas. The client goes to another one by itself when the one that it uses is away.
package main
