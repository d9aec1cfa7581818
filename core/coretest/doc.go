// Package coretest is to run a cluster of core members under a scripted network and clock, for tests only.
//
// There is nothing here yet. The tests of core run its one member on a clock of their own.
package coretest
