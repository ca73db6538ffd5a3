// Package cli is the command-line client: commands that call a coordinator
// over gRPC and print what it answers.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes.
const (
	ExitDone     = 0
	ExitFailed   = 1
	ExitUsage    = 2
	ExitNotFound = 3
)

// Env is what a command has of the world besides its arguments.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string // as os.Getenv
	IsTerminal     bool                // Stderr is one: show progress
	Version        string
	Commit         string
}

// command is one thing that the client can do.
type command struct {
	name    string // "put", "tenant create"
	args    string // as the usage line shows them
	count   [2]int // fewest and most arguments
	summary string
	details string // more of the help text; empty or lines
	// flags adds the command's own flags and returns what runs it. Nil for a
	// command without.
	flags func(*flag.FlagSet) action
	run   action // where flags is nil
	local bool   // talks to no coordinator: takes none of the common flags
}

// action runs a command whose arguments were counted.
type action func(context.Context, *invocation) error

// invocation is a command as it was called.
type invocation struct {
	Env
	connection
	name string
	args []string
}

func commands() []command {
	return slices.Concat(keyCommands(), tenantCommands(), limitCommands(), nodeCommands(), migrationCommands(), []command{
		{name: "status", summary: "Show the coordinator and its storage nodes", run: showStatus},
		{name: "explain", args: "KEY", count: [2]int{1, 1}, summary: "Show where a key lives and what an operation on it would do", run: explainKey},
		keysCommand(), loadCommand(), dumpCommand(), backupCommand(), restoreCommand(), repairCommand(), benchCommand(), certsCommand(), healthCommand(),
		{name: "version", summary: "Print the version, commit and Go version", run: printVersion, local: true},
	})
}

// Has tells whether Run knows a command of this first word.
func Has(word string) bool {
	return slices.ContainsFunc(commands(), func(c command) bool { return c.group() == word })
}

// group is the first word of the name.
func (c *command) group() string {
	first, _, _ := strings.Cut(c.name, " ")
	return first
}

// Processes is how the binary is started as anything but a client.
const Processes = `coordinator -dev | -config FILE [flags]
       coordinator storage -id ID -listen ADDR -data DIR [flags]
       coordinator validate FILE`

// Usage lists the commands, a line each.
func Usage() string { return list(commands()) }

func list(cs []command) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, c := range cs {
		fmt.Fprintf(w, "  %s\t%s\n", strings.TrimSpace(c.name+" "+c.args), c.summary)
	}
	_ = w.Flush() // to memory
	return b.String()
}

// usageError is wrong usage: of which command is known where it is printed.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func wrongUsage(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// Run runs the command that args begin with, and returns the exit code. It
// ends early when ctx does.
func Run(ctx context.Context, args []string, env Env) int {
	if len(args) == 0 {
		fmt.Fprintf(env.Stderr, "error: no command\nUsage: %s\n       coordinator COMMAND [flags] [arguments]\n\nCommands:\n%s", Processes, Usage())
		return ExitUsage
	}
	if isHelp(args[0]) {
		fmt.Fprintf(env.Stdout, "Usage: %s\n       coordinator COMMAND [flags] [arguments]\n\nCommands:\n%s\n"+
			"coordinator COMMAND -h tells more, and so do coordinator -h and storage -h.\n", Processes, Usage())
		return ExitDone
	}
	group := slices.DeleteFunc(commands(), func(c command) bool { return c.group() != args[0] })
	switch {
	case len(group) == 0:
		fmt.Fprintf(env.Stderr, "error: unknown command %q\n\nCommands:\n%s", args[0], Usage())
		return ExitUsage
	case group[0].name == args[0]:
		return group[0].invoke(ctx, args[1:], env)
	case len(args) > 1 && isHelp(args[1]):
		fmt.Fprintf(env.Stdout, "Usage: coordinator %s COMMAND [flags] [arguments]\n\nCommands:\n%s\n"+
			"coordinator %s COMMAND -h tells more.\n", args[0], list(group), args[0])
		return ExitDone
	}
	if len(args) > 1 {
		for _, c := range group {
			if c.name == args[0]+" "+args[1] {
				return c.invoke(ctx, args[2:], env)
			}
		}
		fmt.Fprintf(env.Stderr, "error: unknown command %q\n\nCommands:\n%s", strings.Join(args[:2], " "), list(group))
		return ExitUsage
	}
	fmt.Fprintf(env.Stderr, "error: %s needs a command\n\nCommands:\n%s", args[0], list(group))
	return ExitUsage
}

func isHelp(arg string) bool {
	return slices.Contains([]string{"-h", "--h", "-help", "--help", "help"}, arg)
}

func (c *command) invoke(ctx context.Context, args []string, env Env) int {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	in := &invocation{Env: env, name: c.name}
	if !c.local {
		in.addFlags(fs, env.Getenv)
	}
	run := c.run
	if c.flags != nil {
		run = c.flags(fs)
	}
	var err error
	in.args, err = Interleaved(fs, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		if _, err := io.WriteString(env.Stdout, c.help(fs)); err != nil {
			return ExitFailed
		}
		return ExitDone
	case err != nil:
		err = &usageError{err.Error()}
	case len(in.args) < c.count[0] || len(in.args) > c.count[1]:
		err = wrongUsage("%s takes %s, got %d", c.name, c.wants(), len(in.args))
	default:
		err = in.check()
	}
	if err == nil {
		err = run(ctx, in)
	}
	return c.report(ctx, in, err)
}

func (c *command) wants() string {
	switch {
	case c.args == "":
		return "no arguments"
	case c.count[1] == 1:
		return "1 argument, " + c.args
	}
	return fmt.Sprintf("%d arguments, %s", c.count[1], c.args)
}

// report prints what went wrong, if anything, and returns the exit code.
func (c *command) report(ctx context.Context, in *invocation, err error) int {
	if err == nil {
		return ExitDone
	}
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(in.Stderr, "error: %s\nUsage: coordinator %s; -h tells more.\n", usage.text, c.line())
		return ExitUsage
	}
	text := in.explain(err)
	if ctx.Err() != nil {
		text = "interrupted"
	}
	fmt.Fprintf(in.Stderr, "error: %s\n", strings.Join(strings.Fields(text), " "))
	if status.Code(err) == codes.NotFound {
		return ExitNotFound
	}
	return ExitFailed
}

func (c *command) line() string {
	return strings.TrimSpace(c.name + " [flags] " + c.args)
}

func (c *command) help(fs *flag.FlagSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: coordinator %s\n\n%s.\n", c.line(), c.summary)
	if c.details != "" {
		fmt.Fprintf(&b, "%s\n", c.details)
	}
	flags := false
	fs.VisitAll(func(*flag.Flag) { flags = true })
	if flags {
		b.WriteString("\nFlags, before or after the arguments; -- ends them:\n")
		fs.SetOutput(&b)
		fs.PrintDefaults()
		fs.SetOutput(io.Discard)
	}
	return b.String()
}

// Interleaved parses flags from before, between and after arguments, up to
// "--", and returns the arguments.
func Interleaved(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			if !errors.Is(err, flag.ErrHelp) && strings.HasPrefix(err.Error(), "flag provided but not defined") {
				err = fmt.Errorf("%w (put -- before arguments that begin with a dash)", err)
			}
			return nil, err
		}
		left := fs.Args()
		if taken := len(args) - len(left); taken > 0 && args[taken-1] == "--" {
			return append(rest, left...), nil
		}
		if len(left) == 0 {
			return rest, nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

func printVersion(_ context.Context, in *invocation) error {
	_, err := fmt.Fprintf(in.Stdout, "coordinator %s (commit %s, %s)\n", in.Version, in.Commit, runtime.Version())
	return err
}

// moment prints Unix seconds.
func moment(unix int64) string {
	if unix == 0 {
		return "-"
	}
	return time.Unix(unix, 0).UTC().Format(time.RFC3339)
}
