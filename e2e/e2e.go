// Package e2e proves the promises on whole systems: the real programs, as
// processes, over real sockets and files, killed and starved on purpose. It has
// no code of its own; its tests build both programs first.
package e2e
