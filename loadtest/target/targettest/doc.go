// Package targettest gives targets to tests: it builds what they need, starts targets for one test each, and shows the
// logs of those whose test failed.
package targettest
