// Package flags reads the command lines of processes that serve: a coordinator
// and a storage node. Those of client commands are cli's.
package flags

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/pairdb/coordinator/ops/certs"
	"github.com/pairdb/coordinator/ops/cli"
	"github.com/pairdb/coordinator/ops/config"
)

// ErrUsage marks a command line that was refused; why was printed already.
var ErrUsage = errors.New("wrong usage")

// Help is the error of a command line that asked for help; it is flag.ErrHelp.
type Help struct {
	Text string // to be printed
}

func (*Help) Error() string { return flag.ErrHelp.Error() }
func (*Help) Unwrap() error { return flag.ErrHelp }

func newSet(name, usage string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage: %s\n", usage)
		flags := false
		fs.VisitAll(func(*flag.Flag) { flags = true })
		if flags {
			fmt.Fprintln(fs.Output())
			fs.PrintDefaults()
		}
	}
	return fs
}

// parse reads args: flags, before and after the arguments, which are named.
func parse(fs *flag.FlagSet, args []string, named ...string) (arguments []string, err error) {
	stderr := fs.Output()
	var said strings.Builder
	fs.SetOutput(&said)
	arguments, err = cli.Interleaved(fs, args)
	fs.SetOutput(stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil, &Help{said.String()}
	case err != nil:
		fmt.Fprint(stderr, said.String())
		return nil, ErrUsage
	case len(arguments) > len(named):
		return nil, refuse(fs, "unexpected argument %q", arguments[len(named)])
	case len(arguments) < len(named):
		return nil, refuse(fs, "%s is missing", named[len(arguments)])
	}
	return arguments, nil
}

func refuse(fs *flag.FlagSet, format string, a ...any) error {
	fmt.Fprintf(fs.Output(), format+"\n", a...)
	fs.Usage()
	return ErrUsage
}

// Validate reads the command line of coordinator validate: the file to check.
func Validate(args []string, stderr io.Writer) (file string, err error) {
	fs := newSet("validate", "coordinator validate FILE", stderr)
	arguments, err := parse(fs, args, "FILE")
	if err != nil {
		return "", err
	}
	return arguments[0], nil
}

// Coordinator reads the command line of a coordinator: where its configuration
// comes from.
func Coordinator(args []string, stderr io.Writer, env func(string) (string, bool)) (config.Source, error) {
	fs := newSet("coordinator", cli.Processes+`
       coordinator COMMAND [flags]      (coordinator help lists the commands)`, stderr)
	s := config.Source{Env: env}
	fs.BoolVar(&s.Dev, "dev", false, "run everything in this process, with nothing else needed")
	fs.StringVar(&s.Path, "config", "", "configuration `FILE` (HCL)")
	fs.StringVar(&s.Flags.DataDir, "data", "", "keep the data in `DIR`; with -dev the default is a temporary directory")
	fs.StringVar(&s.Flags.Listen, "listen", "", "gRPC `ADDR`ess, HOST:PORT; port 0 takes a free one")
	fs.BoolVar(&s.Flags.AllowRemote, "allow-remote", false, "with -dev: listen beyond loopback although anyone may then read and write everything")
	fs.StringVar(&s.Flags.OpsListen, "ops-listen", "", "`ADDR`ess of health and metrics, HOST:PORT")
	fs.StringVar(&s.Flags.NodeID, "node-id", "", "this coordinator's `ID`, unique among those that share data")
	fs.StringVar(&s.Flags.LogLevel, "log-level", "", "`LEVEL`: trace, debug, info, warn or error")
	fs.StringVar(&s.Flags.LogFormat, "log-format", "", "`FORMAT`: json or text")
	if _, err := parse(fs, args); err != nil {
		return s, err
	}
	if !s.Dev && s.Path == "" {
		return s, refuse(fs, "either -dev or -config FILE is needed")
	}
	return s, nil
}

// StorageNode is the command line of a storage node.
type StorageNode struct {
	ID        string
	Listen    string
	DataDir   string
	Advertise string // empty: where it listens
	OpsListen string // empty: none
	Sync      bool
	LogLevel  string
	LogFormat string
	TLS       certs.Files // of connections to it; zero: plain text
	Join      cli.Join
	Tracing   *config.Tracing // nil: nothing is traced
}

// storageTLS adds the flags of TLS towards coordinators, whose defaults are the
// environment's.
func storageTLS(fs *flag.FlagSet, files *certs.Files, getenv func(string) string) (names *string) {
	allowed := getenv("STORAGE_TLS_CLIENT_NAMES")
	if allowed == "" {
		allowed = certs.CoordinatorName
	}
	fs.StringVar(&files.Cert, "tls-cert", getenv("STORAGE_TLS_CERT"), "PEM `FILE`: serve over TLS with this certificate; $STORAGE_TLS_CERT")
	fs.StringVar(&files.Key, "tls-key", getenv("STORAGE_TLS_KEY"), "PEM `FILE`: key of -tls-cert; $STORAGE_TLS_KEY")
	fs.StringVar(&files.CA, "tls-client-ca", getenv("STORAGE_TLS_CLIENT_CA"), "PEM `FILE`: accept only coordinators, with certificates of these authorities; $STORAGE_TLS_CLIENT_CA")
	return fs.String("tls-client-names", allowed, "comma-separated DNS `NAMES`, one of which a coordinator's certificate must be for; empty: any that the authorities have signed for clients; $STORAGE_TLS_CLIENT_NAMES")
}

// storageTracing adds the flags of tracing. The returned function is called once
// they are parsed.
func storageTracing(fs *flag.FlagSet) func() (*config.Tracing, error) {
	t := config.DefaultTracing()
	endpoint := fs.String("trace-endpoint", "", "`HOST:PORT` of an OpenTelemetry collector (OTLP over gRPC): send spans of operations that coordinators trace there, over TLS unless it is given as http://HOST:PORT; headers come from $OTEL_EXPORTER_OTLP_HEADERS; empty: none are made")
	fs.StringVar(&t.TLS.CAFile, "trace-ca", "", "PEM `FILE`: authorities of the collector's certificate; default: the system's")
	return func() (*config.Tracing, error) {
		if *endpoint == "" {
			if t.TLS.CAFile != "" {
				return nil, errors.New("missing beside -trace-ca")
			}
			return nil, nil
		}
		if err := t.SetEndpoint(*endpoint); err != nil {
			return nil, err
		}
		if t.Insecure && t.TLS.CAFile != "" {
			return nil, errors.New("http:// has no use for -trace-ca")
		}
		return t, nil
	}
}

// Storage reads the command line of coordinator storage.
func Storage(args []string, stderr io.Writer, getenv func(string) string) (StorageNode, error) {
	fs := newSet("storage", "coordinator storage -id ID -listen ADDR -data DIR [flags]", stderr)
	var s StorageNode
	fs.StringVar(&s.ID, "id", "", "this node's `ID`, unique in the cluster and the same for as long as its data")
	fs.StringVar(&s.Listen, "listen", "", "gRPC `ADDR`ess, HOST:PORT; port 0 takes a free one")
	fs.StringVar(&s.DataDir, "data", "", "data `DIR`ectory")
	fs.StringVar(&s.Advertise, "advertise", "", "`HOST:PORT` at which coordinators reach this node; default: where it listens")
	fs.StringVar(&s.OpsListen, "ops-listen", "", "`ADDR`ess of health and metrics; empty: none")
	fs.BoolVar(&s.Sync, "sync", true, "acknowledge a write only when it is on disk; without, it survives the death of the process but not of the machine")
	fs.StringVar(&s.LogLevel, "log-level", "info", "`LEVEL`: trace, debug, info, warn or error")
	fs.StringVar(&s.LogFormat, "log-format", "json", "`FORMAT`: json or text")
	names := storageTLS(fs, &s.TLS, getenv)
	s.Join.AddFlags(fs, getenv)
	traces := storageTracing(fs)
	if _, err := parse(fs, args); err != nil {
		return s, err
	}
	var err error
	if s.Tracing, err = traces(); err != nil {
		return s, refuse(fs, "-trace-endpoint: %v", err)
	}
	if s.TLS.CA != "" && *names != "" {
		s.TLS.Names = strings.Split(*names, ",")
	}
	if (s.TLS.Cert == "") != (s.TLS.Key == "") || s.TLS.CA != "" && s.TLS.Cert == "" {
		return s, refuse(fs, "-tls-cert and -tls-key go together, and -tls-client-ca goes with them")
	}
	if s.ID == "" || s.Listen == "" || s.DataDir == "" {
		return s, refuse(fs, "-id, -listen and -data are needed")
	}
	if err := s.Join.Check(cmp.Or(s.Advertise, "localhost:1")); err != nil { // else it is known when it listens
		return s, refuse(fs, "%v", err)
	}
	return s, nil
}
