// Package report holds what a bench has measured, and makes JSON, HTML and Markdown of it.
//
// A Report is data alone: who measured where, which Systems were loaded by which Scenarios, and for each pair of them a
// Result of several Turns. Nothing here knows how anything was measured. What did not work is data too: a turn that failed
// has its reason, a system that cannot do what a scenario asks is unsupported, and neither becomes a zero.
//
// Package suite fills a Report; loadtest's commands write it. A Section is what a deeper bench has printed, to be added to one. What
// servers have said is in both as it was said, and becomes markup in neither HTML nor Markdown.
package report
