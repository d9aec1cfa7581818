// Package documents runs what the documentation tells a reader to type, and compares what is printed with what it says.
//
// Its nouns: a document is README.md or a file of docs/; a block is what it has between fences. The blocks marked sh of one
// document are one session of a shell, in their order, in a directory that looks like the top of the repository after "make
// build", with real programs. A block marked text right behind one of them is what that prints: there "…" stands for what is
// another each time, alone on a line for any number of lines. What cannot be run has a comment before its fence that says
// why, <!-- not run: ... -->, which no reader sees. The session has a network of its own, so that a reader's ports are used.
//
// The rest of the tests here hold the documents together: links lead somewhere, and every flag is described.
//
// Rejected: examples kept as scripts and copied into the text by a generator. Then who edits the text has to know of the
// generator, and the text is never what is read in a review.
package documents
