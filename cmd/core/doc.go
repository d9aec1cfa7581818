// Command core runs one member of a weir cluster. It takes the flags and environment variables of an etcd server.
package main
