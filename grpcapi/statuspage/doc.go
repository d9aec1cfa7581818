// Package statuspage is a page that shows an operator what a server does, as of now and over the last hour.
//
// A server says what it shows as a View, in words and numbers that are ready to be read, and the numbers of its charts. The
// Page has the rest:
//
//	/weir/          the page; without JavaScript it shows the moment at which it was asked for
//	/weir/events    what has changed since, as server-sent events: parts of the page, and samples for the charts
//	/weir/status    what the server says of itself, as JSON
//	/weir/watches   who watches what, in pages, as JSON
//	/weir/assets/   style and script
//
// Nouns: a View is tiles and tables; a Chart is a few Lines; a history has the samples of the last hour; a viewer is somebody
// with the page open; the door lets in who may see it.
//
// Invariants: nothing is shown to whom Config.Permit refuses, and who is not permitted any more is shown no more within a
// second. Memory is bounded whatever clients do: the history has a fixed size, there are at most maxViewers, who are all sent the
// same bytes, and who does not take them is dropped. A View is made only while somebody looks. Nothing is fetched from
// elsewhere, and a browser is told to fetch nothing (Content-Security-Policy).
//
// cmd/core and cmd/proxy make a Page and give its handler to grpcapi; core, proxy and grpcapi fill Views.
package statuspage
