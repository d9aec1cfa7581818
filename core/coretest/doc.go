// Package coretest runs a cluster of core members in one goroutine, with a network, disks and a clock that a test scripts, and holds
// all that they do against what raft and core promise. It is for tests only.
//
// What is tested is consensus.Machine, as it is. What core.Node has around it (the log's writer, the applier, the store's commits, cuts
// of the log, sending and installing snapshots, queues of writes and reads) is modelled by Member, in the same order of steps, without
// files: the tests of core, wal, mvcc and transport show that those keep to it.
//
// The nouns:
//
//   - Cluster: the members, the network between them, the clock, and the checks. It belongs to one goroutine.
//   - Member: one machine and what drives it. A crash takes its process away, and leaves its disk.
//   - disk: a log, a store and a snapshot that has come. A step is a point between two writes at which a crash can be ordered.
//   - network: loses, delays, reorders and doubles messages, but doubles no proposals, as core/transport does not.
//   - Operation: a write or a linearizable read of a client.
//   - checks: what must hold at every step.
//   - Script: a scenario from a text file. Storm: a long run of random trouble.
//
// # What is checked
//
// At every step, of all members together; the names are those that a Violation has:
//
//	election safety          at most one member leads in a term
//	leader completeness      who leads has all that was committed in earlier terms
//	log matching             two logs that have an entry of the same index and term are the same up to it
//	append only              nothing that was applied is overwritten
//	state machine safety     what is applied at an index is the same everywhere, and so is what a snapshot holds
//	apply order              entries are applied one after the other, each once
//	applied once             no write is in two entries
//	acknowledged             a write that was acknowledged is in the log, then and at the end
//	linearizable writes      a write is behind everything that had been acknowledged or seen before it began
//	linearizable reads       a read sees everything that had been acknowledged or seen before it began
//	durable                  nothing is attested or applied that is not durable here: a term, a vote, an entry
//	durable term, terms      no member goes back to an earlier term, nor does a restart bring it there
//	install                  nothing is appended while a snapshot is installed
//	configuration            raft has the membership that was applied, however late
//	snapshot, log, recovery  log and store fit each other, after every crash
//	panic                    raft's own invariants
//
// With the order of the log known, the two about linearizability are all that there is to be shown: writes take effect in the order of
// their entries, and each read behind what was applied when it was answered.
//
// At the end of each run all is well again, and then the cluster must serve within 40 election timeouts: each member answers a write
// and a read, and all have the same state ("recovery").
//
// # Scenarios
//
// A scenario is a file in testdata, a command a line; # begins a comment. Members are named by numbers, from 1; N is one or several of
// them. A command that waits fails after 40 election timeouts. Durations are as Go writes them; a tick, which is the interval of
// heartbeats, takes 10ms, and an election timeout 100 to 200.
//
//	members COUNT          the members at the beginning, all voters; the first command
//	small-bounds           what machines may keep in memory is bounded in hundreds of bytes; before all that is played
//	violates NAME          the scenario shows that this is noticed: its checks must fail, and so
//	run DURATION           time passes
//
//	write N NAME...        begins writes on a member, by these names; read does the same with reads
//	done NAME...           waits until they are acknowledged or answered; open: until it shows that nobody can tell
//	waits NAME...          they are neither; nowhere: these writes are in no entry that was applied
//	put N [xCOUNT]         a client writes on a member, and again if it does not learn what became of it; waits until it is done
//	get N                  a client reads on a member in the same way
//
//	elect N                has a member lead, by election or transfer; transfer: by transfer
//	campaign N             has it ask for votes at once; hand-over N asks the leader to have it take over; both wait for nothing
//	leads N                it leads now; leader N waits for that; leaderless waits until nobody does
//
//	crash N [at STEP]      takes the process away, at once or when it comes to a step; down N waits until that has happened
//	start N                starts it, with what is on its disk; or a new member, with an empty disk
//	pause N, resume N      its process stands still, and goes on
//	gone N                 waits until it has ended for good, because it has been removed
//
//	cut A > B, cut A B     nothing gets through from A to B, or between them
//	partition N | N...     groups that do not reach each other, and no other cuts
//	isolate N              it reaches nobody, and nobody reaches it
//	heal                   ends all cuts
//	lose, double, slow P%  how many messages are lost, come twice, or take up to four election timeouts
//	hold TYPE [A > B]      keeps messages of a type of raft's, without its Msg: App, AppResp, VoteResp; drop loses them; A or B may be *
//	release                ends all hold and drop, and delivers what was kept
//
//	disk N DURATION        how long a write takes at most; stuck: no write ends; ok: as at first; lies: it forgets all from now on at a crash
//	applier N DURATION     how long it takes to apply an entry, or to serve from a snapshot that has taken the place of the store
//	every COUNT            after how many entries a store is committed and its log cut; 0: never
//	keep COUNT             how many entries a cut leaves for those who lag
//	commit N               commits the store and cuts the log now
//	installed N            waits until it has installed a snapshot; caught-up N: until it has applied what the leader has
//	sent N COUNT           it was sent so many snapshots
//
//	add, learner, promote, remove N   changes the membership, and waits for that; ask CHANGE N does not wait
//	converge               all is well, as at the end of each scenario
//	unsafe N reads|appends it answers reads by itself, or says at once that an append is done; to show that this is noticed
//
// The steps of crash, in the order in which a member comes to them, are the constants of type step.
//
// # Determinism
//
// Each scenario is played with several seeds, and each storm with its own: delays, torn writes and trouble are drawn from it. A failure
// prints the seed, the command that plays it again, and the last of the trace. For longer runs:
//
//	go test ./core/coretest -run NothingIsLost -duration 10h -timeout 0
package coretest
