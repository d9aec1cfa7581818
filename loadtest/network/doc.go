// Package network gives each member of a cluster a host of its own, whose network can be harmed as no loopback can: packets
// are lost, late, doubled or out of order, or pass in one direction only, between any two hosts.
//
// Its nouns: a [Network] is hosts, each a network namespace (ip-netns(8)), and one more on which the calling process is. Their
// packets go to a switch in the calling process, over devices of tun(4). A [Link] is what the switch does to packets on the
// way from one host to another.
//
// Rejected: veth pairs with tc-netem(8) on each. It shapes all that a host sends, so that to harm a pair in one direction
// takes a tree of classes and filters, and kernels that are built for small virtual machines have no netem. What it does, the
// switch does; and where the kernel has it, [Network.Command] runs tc on a host.
package network
