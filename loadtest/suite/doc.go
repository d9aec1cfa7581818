// Package suite loads systems with scenarios, in turns, and fills a report.Report.
//
// A System is what is loaded: servers that are started for it, or some that run already. A Scenario is one kind of load. For each
// scenario all systems of ours are started anew, each as its own processes, and filled; then their turns follow each other, A B
// C in the first round, B C A in the next: whatever else the machine does is shared, and no system always comes after the same
// one. In a turn a Load, the clients, asks until it is told to stop; what is answered between the end of the warm-up and the
// end of the turn counts, in a Recorder, and the processor time of all servers is taken at the same two moments.
//
// A turn that fails is in the report with its reason, and the others go on. It fails too if some clients were given nothing in
// all of it, or if other events came than were due: such a system does less than it is asked for, and its numbers would look
// good. A system whose own server answers a load with Unimplemented is reported as unsupported; whatever goes wrong before there is
// a load is a failure. A run that is cut off gives what it has, and says so.
//
// What holds: answers are checked, so that nothing wrong is counted. All keys are below Prefix. However a run ends, the processes and
// data that it has started end with it, and an External system has its keys and leases no longer; if it does not let its keys be
// deleted, that is named, with the command that does it, and leases expire.
//
// The bench command of loadtest calls Run. A scenario is added in a file of its kind, with a load.ClosedLoop or with a Load of its own, and
// in Scenarios.
package suite
