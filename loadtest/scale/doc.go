// Package scale tells how many proxies, in how many levels, it takes to serve more watchers than one machine can, and what
// each of them costs the store: by a model, since the machines are not there.
//
// The [Model] is arithmetic alone. Its inputs are the [Costs] of a core and of a proxy: the processor time that a write, an event
// from upstream, a message to a watcher take, and memory. [Model.Plans] makes trees of a [Load], who watches what and how much is
// written, and a [Machine], each of whose limits every server keeps.
//
// The inputs are measured: [Measure] starts a core and proxies as processes of their own, and loads them with watchers and
// writes so that two runs differ in one thing; the cost is the difference. A model that only explains what it was made of is worth
// nothing: [Check] has it predict other runs, with several proxies and with a tree, and puts what was measured beside it.
//
// [Run] does all of this and fills a report.Scale. The loadtest command calls it.
package scale
