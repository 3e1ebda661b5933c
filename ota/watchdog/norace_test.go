//go:build !race

package watchdog

// thinned is how many of the operations share one run where the tests try each.
const thinned = 1
