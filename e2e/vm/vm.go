// Package vm boots real Debian machines for the tests that need one: a kernel
// of its own with sensors, systemd, and a power cord that can be pulled.
//
// The parties are the image, built from Debian's packages once and kept in the
// user's cache under the hash of its recipe (image.sh); the Machine, which is
// qemu on a copy-on-write overlay of it; and qemu's guest agent in the machine,
// which runs the tests' commands. Nothing of it needs a network. Processors are
// emulated (TCG), so every wait here is generous.
//
// Promises: a machine never outlives the test that made it, nor the test
// program, however either ends. Every wait has a limit. Cut loses what a power
// cut loses, the memory with all that was not yet written to the disk; a disk
// that loses what it was given is not imitated.
//
// The tests have the build tag vm; `make test-vm` runs them.
package vm
