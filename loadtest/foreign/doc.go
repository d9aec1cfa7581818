// Package foreign is tests with clients that neither etcd's project nor this one has written: curl's users, who follow
// etcd's documentation, and client libraries of other languages, each with its own implementation of gRPC.
//
// Whatever such a client does here must come out at weir as it does at etcd. What etcd's documentation has for curl is
// tested with Go's HTTP client, so that it runs everywhere. The libraries are used by scripts in their own languages, in the
// folder scripts, which print what they are answered; etcd's transcript is the measure of the others. The programs of
// docs/examples are run as a reader runs them, and those that watch go on watching while their server is away. Patroni holds
// a PostgreSQL of two nodes together, through what happens to the store and to the nodes. All these tests have the
// build tag foreign, because what they need is not on every machine: "make foreign" runs them.
package foreign
