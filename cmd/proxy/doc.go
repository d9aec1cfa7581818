// Command proxy puts a weir proxy before an etcd or weir cluster. It takes the flags of `etcd grpc-proxy start`, and
// each as an environment variable WEIR_PROXY_<FLAG>. With no flag and no variable at all it starts a core of one
// member in the same process and serves that.
package main
