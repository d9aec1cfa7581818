// Package busiest tells which few of very many names are seen most often, without counting all of them: which ranges are read
// most, and which clients ask most.
//
// Nouns: a Counter samples what happens, and keeps the names that it has met most often lately; an Entry is one of them with
// how often it happens.
//
// Invariants: a Counter has at most maxNames names of at most maxName bytes, whatever clients do. What is not sampled costs a few
// nanoseconds and takes no lock.
//
// Called by the proxy, for each request of a client; its status page shows the result.
package busiest
