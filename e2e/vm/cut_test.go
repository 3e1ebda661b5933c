//go:build vm

package vm

import "testing"

// TestCut proves that a power cut loses what it should, so that the tests which
// expect nothing to be lost can fail: what was not synced, and the content of a
// file that took the place of another without a sync.
func TestCut(t *testing.T) {
	t.Parallel()
	m := Start(t, Options{Arch: "amd64"})
	// The sync of one file writes down all names, but the content of no other.
	m.Run(`cd /root
echo old >replaced
sync
echo new >replaced.new
mv replaced.new replaced
echo kept >synced
sync synced .
echo lost >unsynced`)
	m.Cut()
	m.Boot()
	for file, want := range map[string]string{"synced": "kept\n", "replaced": "", "unsynced": ""} {
		if got := m.Run("cat /root/" + file + " || true"); got != want {
			t.Errorf("%s holds %q after the cut, want %q", file, got, want)
		}
	}
	m.Stop()
}
