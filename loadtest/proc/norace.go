//go:build !race

package proc

// underRace says that this was built with the race detector, and that weir's programs should be too.
const underRace = false
