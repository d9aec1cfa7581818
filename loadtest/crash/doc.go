// Package crash kills the process that holds the data, again and again while clients write and watch, and checks what
// was promised: every acknowledged write is there, with its revision; none is there twice; revisions never go back; and a
// watch that resumes sees every event once. It also starts servers where they must refuse to start.
package crash
