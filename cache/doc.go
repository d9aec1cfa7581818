// Package cache is to hold the proxy's answers in memory: range results by revision, and the watch-fed snapshot of a range.
//
// There is nothing here yet. The proxy forwards every read.
package cache
