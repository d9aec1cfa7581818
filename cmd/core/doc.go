// Command core runs one member of a weir cluster. It takes the flags, the environment variables and the configuration file
// of an etcd server.
//
// The flags of one noun are one part, in a file of its own, which defines them, checks them, and puts what they ask for into
// options. serve opens the listeners first, then the member, and serves when the member is ready.
//
// `core check-config` starts nothing: it tells what is wrong with the flags, variables and files, by the code with which the start reads them.
// `core snapshot` starts nothing: it tells what is in a saved snapshot, or makes the data directory of a member of it.
package main
