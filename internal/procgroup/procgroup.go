// Package procgroup runs the operator's programs without being hurt by what
// they do: each leads a process group of its own, which ends with it.
package procgroup

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"syscall"
)

// inherited are the agent's variables that a program may see: the means to find
// others. The rest of its environment may hold keys and tokens.
var inherited = []string{"PATH", "LANG", "TZ", "HOME"}

// Contain makes cmd lead a process group of its own, all of which is killed
// when cmd's context ends. Call it before Start, and End after Wait.
func Contain(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return kill(cmd.Process.Pid) }
}

// End ends what cmd, which has ended, left running: it would gather, one more
// at every run. Where the agent is the first process of a container it inherits
// these orphans and must wait for them, or they stay as zombies.
func End(cmd *exec.Cmd) {
	pid := cmd.Process.Pid
	_ = kill(pid) // usually nobody is left
	for {
		_, err := syscall.Wait4(-pid, nil, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return // none is left, or another process inherited them
		}
	}
}

// Environ returns the part of the agent's environment that a program may see,
// without the variables that own sets, and with those.
func Environ(own map[string]string) []string {
	env := []string{}
	for _, name := range inherited {
		_, replaced := own[name]
		if value, ok := os.LookupEnv(name); ok && !replaced {
			env = append(env, name+"="+value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		env = append(env, name+"="+own[name])
	}
	return env
}

// kill kills the process group that pid leads.
func kill(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
