// Package logging makes the process's logger.
package logging

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// Options of a logger.
type Options struct {
	Level  string // trace, debug, info, warn or error
	Format string // json: an object a line; text: for people
	Output io.Writer
}

var (
	levels  = []string{"trace", "debug", "info", "warn", "error"}
	formats = []string{"json", "text"}
)

// New makes a logger. It writes each line with one call of Output.Write, one
// at a time. An unknown level or format is an error that names the known ones.
func New(o Options) (hclog.Logger, error) {
	if !slices.Contains(levels, o.Level) {
		return nil, fmt.Errorf("log level %q is unknown, want one of %s", o.Level, strings.Join(levels, ", "))
	}
	if !slices.Contains(formats, o.Format) {
		return nil, fmt.Errorf("log format %q is unknown, want one of %s", o.Format, strings.Join(formats, ", "))
	}
	return hclog.New(&hclog.LoggerOptions{
		Name:               "coordinator",
		Level:              hclog.LevelFromString(o.Level),
		Output:             o.Output,
		JSONFormat:         o.Format == "json",
		JSONEscapeDisabled: true, // the log is not HTML, and keys hold < and &
	}), nil
}
