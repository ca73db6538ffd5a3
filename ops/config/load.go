package config

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Source is where a configuration comes from. What is further down in this
// list gives way: Flags, Env, the file at Path, the defaults.
type Source struct {
	Flags Flags
	Env   func(name string) (value string, ok bool) // nil: no environment
	Path  string                                    // empty: no file
	// Dev chooses the defaults of a process that needs nothing else: local
	// addresses, embedded storage nodes, SQLite and Badger in the data directory.
	Dev bool
}

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// Load reads, decodes and checks a configuration. Where something is wrong with
// it the error is Faults, and holds everything that is; where the file cannot
// be read it is another error.
func Load(src Source) (*Config, error) {
	if src.Path == "" {
		return parse(src, nil)
	}
	f, err := os.Open(src.Path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(text) > maxFileBytes {
		return nil, fmt.Errorf("read configuration %s: more than %d bytes", src.Path, maxFileBytes)
	}
	return parse(src, text)
}

func parse(src Source, text []byte) (*Config, error) {
	d := &decoder{text: newSourceText(text, src.Path)}
	var f fileSchema
	var end hcl.Range // where what is missing could stand
	stands := map[string]bool{}
	if src.Path != "" {
		file, diags := hclparse.NewParser().ParseHCL(text, src.Path)
		if diags.HasErrors() {
			d.add(diags)
			d.faults.sort()
			return nil, d.faults
		}
		d.decode(file.Body, &f)
		end = file.Body.MissingItemRange()
		if body, ok := file.Body.(*hclsyntax.Body); ok {
			for _, b := range body.Blocks {
				stands[b.Type] = true
			}
		}
	}

	c := defaults(src.Dev)
	address := d.file(c, &f)
	d.stores(c, stands, src, end)
	if src.Env != nil {
		d.environment(c, &address, src.Env)
	}
	d.flags(c, src.Flags)
	d.finish(c, &f, address)
	d.closed(c, src)
	if len(d.faults) > 0 {
		d.faults.sort()
		return nil, d.faults
	}
	return c, nil
}

// stores gives dev mode the stores that need nothing else. A production
// process must be told where its data is. Stands holds the kinds of blocks that
// are in the file, even if not decoded for want of a label.
func (d *decoder) stores(c *Config, stands map[string]bool, src Source, end hcl.Range) {
	missing := func(what, detail string) {
		if src.Path == "" {
			d.reportSetting("configuration", what, detail)
			return
		}
		d.faults = append(d.faults, Fault{Range: end, Summary: what, Detail: detail})
	}
	if !stands["metadata"] {
		if src.Dev {
			c.Metadata.SQLite = &SQLite{}
		} else {
			missing("Missing metadata block",
				`Say where tenants and nodes are kept: metadata "postgres" { ... } or metadata "sqlite" { ... }.`)
		}
	}
	if !stands["idempotency"] {
		if src.Dev {
			c.Idempotency.Badger = &Badger{}
		} else {
			missing("Missing idempotency block",
				`Say where keyed requests are remembered: idempotency "redis" { ... } or idempotency "badger" { ... }.`)
		}
	}
}

// finish derives what follows from several settings, and checks what only
// shows in several together.
func (d *decoder) finish(c *Config, f *fileSchema, address postgresAddress) {
	if c.Metadata.Postgres != nil {
		url, err := address.complete()
		if err != nil {
			d.reportSetting("environment DATABASE_*", "Cannot override the url", err.Error()+".")
		}
		c.Metadata.Postgres.URL = url
	}
	if p := c.Idempotency.Postgres; p != nil && p.URL.Empty() && c.Metadata.Postgres == nil {
		for _, b := range f.Idempotency {
			d.report(b.Range, "Missing url", "idempotency.url may be left out only where metadata is in postgres too.")
		}
	}
	if c.DataDir != "" {
		*c = *c.InDataDir(c.DataDir)
	}
	if sameListener(c.Server.Listen, c.Metrics.Listen) {
		summary, detail := "Address used twice",
			fmt.Sprintf("server.listen and metrics.listen are both %q.", c.Metrics.Listen)
		for _, m := range f.Metrics {
			if m.Listen != nil {
				d.report(m.Listen.Expr.Range(), summary, detail)
				return
			}
		}
		d.reportSetting("metrics.listen", summary, detail)
	}
}

// closed reports a dev mode that would serve everybody on the network: by gRPC,
// or on the console, which shows keys and values then.
func (d *decoder) closed(c *Config, src Source) {
	if !src.Dev || src.Flags.AllowRemote || c.Auth != nil {
		return
	}
	open := map[string]string{"metrics.listen": c.Metrics.Listen}
	if c.Server.TLS == nil || c.Server.TLS.ClientCAFile == "" {
		open["server.listen"] = c.Server.Listen
	}
	for setting, address := range open {
		if !isLoopback(address) {
			d.reportSetting(setting, "Anyone could connect",
				fmt.Sprintf("%s is not a loopback address, and -dev asks nobody for a token: listen on 127.0.0.1, configure auth, or say -allow-remote.",
					address))
		}
	}
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// sameListener tells whether a and b could not both be listened on. Port 0 is
// another one each time.
func sameListener(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB && portA != "0" && strings.EqualFold(hostA, hostB)
}

// InDataDir returns c with dir as its data directory, for dev mode, which
// makes one when none was given.
func (c *Config) InDataDir(dir string) *Config {
	out := *c
	out.DataDir = dir
	if out.Metadata.SQLite != nil && out.Metadata.SQLite.Path == "" {
		out.Metadata.SQLite = &SQLite{Path: filepath.Join(dir, "metadata.db")}
	}
	if out.Idempotency.Badger != nil && out.Idempotency.Badger.Path == "" {
		out.Idempotency.Badger = &Badger{Path: filepath.Join(dir, "idempotency")}
	}
	return &out
}
