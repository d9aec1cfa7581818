// Package page tests the status page in a real browser: Chromium, without a window, driven by its DevTools protocol. It loads, is
// readable and fits on a phone, follows what happens, and tells of an upstream member that was killed.
//
// Chromium is Debian's package; where it is not installed the tests fail and say so.
//
//	go test ./page -screenshots=DIR	leaves pictures of the page in DIR
package page
