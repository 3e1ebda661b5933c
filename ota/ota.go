// Package ota is what the agent and the watchdog both know of an update: where
// the files are, what the state says, how the one asks and the other answers.
//
// The parties are the agent, which fetches bundles and asks for what a signed
// command told it (inbox/request.json); the watchdog (ota/watchdog), which
// trusts nothing of that, does the work and writes down what came of it
// (ota/state.json, ota/history.jsonl); and whoever reads these two files, which
// are plain JSON so that any version of the program can.
//
//	BASE/active -> slot-a     the only switch; replaced by rename
//	BASE/slot-a/ slot-b/      a release each: its files and manifest.json
//	BASE/ota/                 state.json history.jsonl lock busy work/   (root)
//	BASE/inbox/               downloads, request.json                    (agent)
//
// The order of every change is: disk, then the world. State is written and
// synced before what it tells of is done, so that a power cut at any instant
// leaves a state whose recovery rule (ota/watchdog) brings the device to
// exactly one complete, verified release.
package ota

import "path/filepath"

// The slots of a component.
const (
	SlotA = "a"
	SlotB = "b"
)

// OtherSlot returns the slot that s is not.
func OtherSlot(s string) string {
	if s == SlotA {
		return SlotB
	}
	return SlotA
}

// AgentComponent is the name of the component that is the agent itself.
const AgentComponent = "pyvorin-edge"

// Layout names the files of a component below its base dir.
type Layout struct{ Base string }

// SlotName returns the name of a slot's folder, which is also what active
// points to.
func SlotName(slot string) string { return "slot-" + slot }

// Slot returns the folder of a slot.
func (l Layout) Slot(slot string) string { return filepath.Join(l.Base, SlotName(slot)) }

// Active returns the symbolic link to the slot that runs.
func (l Layout) Active() string { return filepath.Join(l.Base, "active") }

// Dir returns the watchdog's own folder.
func (l Layout) Dir() string { return filepath.Join(l.Base, "ota") }

// State returns the file with the State.
func (l Layout) State() string { return filepath.Join(l.Dir(), "state.json") }

// History returns the file with one Outcome a line, the newest last.
func (l Layout) History() string { return filepath.Join(l.Dir(), "history.jsonl") }

// Busy returns the file that exists while an attempt is unfinished. The service
// manager starts the watchdog while it does.
func (l Layout) Busy() string { return filepath.Join(l.Dir(), "busy") }

// Lock returns the file whose lock only one watchdog holds.
func (l Layout) Lock() string { return filepath.Join(l.Dir(), "lock") }

// Work returns the folder of what is being put together.
func (l Layout) Work() string { return filepath.Join(l.Dir(), "work") }

// Inbox returns the agent's folder of downloads and requests.
func (l Layout) Inbox() string { return filepath.Join(l.Base, inboxDir) }

const inboxDir = "inbox"

// Request returns the file with the agent's Request.
func (l Layout) Request() string { return filepath.Join(l.Inbox(), RequestFile) }

// Anchor returns the file with the trust anchor.
func (l Layout) Anchor() string { return filepath.Join(l.Base, "trust_anchor.json") }

// DeviceID returns the file with the device's id.
func (l Layout) DeviceID() string { return filepath.Join(l.Base, "device_id") }

// ManifestFile is the name of a release's manifest envelope in its slot.
const ManifestFile = "manifest.json"

// RequestFile is the name of the request in the inbox.
const RequestFile = "request.json"
