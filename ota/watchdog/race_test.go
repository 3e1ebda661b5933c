//go:build race

package watchdog

// thinned is how many of the operations share one run where the tests try each.
// What they try happens in one goroutine, and the race detector makes it ten
// times slower.
const thinned = 4
