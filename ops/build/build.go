// Package build tells which build of the program this is.
package build

import (
	"runtime/debug"
	"sync"
)

type stamp struct{ version, commit string }

// read is called once: the answer cannot change.
var read = sync.OnceValue(func() stamp {
	s := stamp{"unknown", "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return s
	}
	if info.Main.Version != "" {
		s.version = info.Main.Version
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			s.commit = setting.Value
		}
	}
	return s
})

// Version is the module's version as the Go tool stamped it: a tag, or a
// pseudo-version with the time and commit.
func Version() string { return read().version }

// Commit is the full hash of the commit that was built, or "unknown".
func Commit() string { return read().commit }
