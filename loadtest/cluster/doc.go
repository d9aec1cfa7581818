// Package cluster tests with three real processes what a cluster promises whatever happens to some of them: nothing that was
// acknowledged is lost, all members have the same, every watch sees every event once, and what clients are told is what one
// store could have told them. It does harm under load, mends it, and then looks.
//
// What harms it: kill -9, broken networks, changes of the membership, moves to other machines, upgrades member by member, disks and
// quotas that are full, logs that are damaged or older than what they told others, a majority that is lost for good, and strangers
// that take themselves for members.
//
// Almost all of it is done to three etcds, too, for fewer rounds, which proves the tests. To look for longer:
//
//	go test ./cluster -run Killed -timeout 2h -args -kills=500
//	go test ./cluster -run Broken -timeout 2h -args -partitions=500
package cluster
