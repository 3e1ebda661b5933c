// Package checks holds the rules about the source itself that no compiler
// enforces: which package may import which, and that each tells its story. It
// has no code; `make check` runs its tests.
package checks
