// Command proxy puts a weir proxy before an etcd or weir cluster. It takes the flags of `etcd grpc-proxy start`, and
// each as an environment variable WEIR_PROXY_<FLAG> or as a key of a file. With no flag and no variable at all it starts a core of one
// member in the same process and serves that.
//
// `proxy check-config` starts nothing: it tells what is wrong with the flags, variables and files, by the code with which the start reads them.
package main
