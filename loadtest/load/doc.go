// Package load is the clients of those loads that more than one bench puts on a server.
//
// They are the [Watchers], who watch, with one who writes what they watch, and the [Keepers], who keep leases alive. Both run against
// a [Place], whoever has started it, and check every answer: an event that is lost, comes twice or out of order, a watch that is
// ended, a lease that is gone or a ping without an answer is an error that ends the load. So a server that loses something
// does not get a result. What is measured is given to a [Track], one for each connection.
//
// The suite's scenarios and the deeper benches of package bench are built of them.
package load
