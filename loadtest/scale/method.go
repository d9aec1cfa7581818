package scale

import "fmt"

// method says how plans are made, for people who have to decide whether to believe them.
func (o Options) method() []string {
	return []string{
		fmt.Sprintf("The question: how many proxies, in how many levels, serve %d watchers at %.0f events a second of %d B, what does the core see, "+
			"and what does one proxy more add to that? The machines for it are not here, so the answer is computed from what single servers "+
			"were measured to take.", o.Watchers, o.Events, o.ValueSize),
		"Who watches what decides. If every event goes to every watcher, each must be sent all of them, by whatever server, and the number of " +
			"deliveries a second is the product, " + fmt.Sprintf("%.3g", float64(o.Watchers)*o.Events) +
			": a tree divides it among machines, and makes none of it go away. If each watcher wants a part, " +
			"as a node of Kubernetes wants its own pods, it is so much less. Both are computed, and that watchers share connections. A proxy is " +
			"supposed to take all events from upstream in any case, as one does that has many watchers below one prefix.",
		fmt.Sprintf("The inputs are differences: two short runs, each with processes of its own, differ in one thing (watchers, connections, events in a "+
			"write, size of a value), and what the server took more of the processor for a write, by the kernel's count, is the cost of that "+
			"thing. The runs of the core and the proxy follow each other; of several rounds the median counts. Most runs have %.0f writes a second "+
			"of one client, one after the other: a server with less to do takes more for each (at 50 a second several times as much), one with more "+
			"takes less. Few watchers are %d, each on a connection of its own. Memory is RSS after events were sent.", o.rate(), fewWatchers),
		"A server's processor time is the sum: at rest; for each write, or each batch of events from upstream; for each message to a watcher, " +
			"its events and their bytes; for each connection that has to be written to. Bytes on the network are computed from etcd's messages and the " +
			"heads of gRPC, HTTP/2, TCP, IP and Ethernet. A proxy before another is one watcher, on a connection of its own, that gets everything.",
		fmt.Sprintf("Each machine has a link of %.0f Gbit/s and %.0f GiB of memory for each core. On the average %.0f %% of its cores, memory and link may be used; the rest "+
			"is for bursts, and for the clients of a server that is lost. The watchers of one range are given their messages by one goroutine, however "+
			"many cores there are; what it does of a delivery is known from a profile, and it too may be busy for that part of the time. "+
			"Each proxy is given as many clients as these limits allow, from the lowest level up, and there are as few levels as the core "+
			"can bear.", o.LinkGbit, o.MemoryPerCore, 100*o.Use),
		"Latency is what was measured at a core with few watchers, and with a proxy between, for each level; and for each server on the way the wait " +
			"for batches before, as of a queue to which work comes at random and takes equally long (M/D/1: the formula of Pollaczek and Khinchine), and " +
			"half the time that it takes to send to all, which is when the watcher in the middle is served. The p99 adds the p99 of each part, " +
			"and so is an upper bound.",
		"What the model leaves out: the network between machines, where there is only loopback here, which costs less of the processor than network " +
			"cards do and no time; caches of the processor, which many more watchers fill; garbage collection, but for what it took in the runs; TLS; " +
			"that more cores are not used to the full (locks, memory); what an operating system allows, as of open files; servers that are lost, and the watchers that then all come back at once; writes that come " +
			"together, which the core commits together, and messages that do, which go out together: these two make it take less than is said here.",
		fmt.Sprintf("It is checked against runs of other sizes than those that the costs come from, with 1, 2 and 4 proxies and a tree of two levels. All servers and "+
			"the clients share this machine; where more than %.0f %% of it was busy the check says so, and proves little. A plan for a thousand times as "+
			"many watchers is an extrapolation whatever the checks say: take it as the right order of magnitude.", 100*fullBusy),
	}
}
