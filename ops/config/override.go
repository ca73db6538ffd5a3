package config

import (
	"errors"
	"fmt"
	"net"
	"strconv"
)

// Flags are the settings of the command line. An empty one was not given.
type Flags struct {
	NodeID    string // -node-id
	DataDir   string // -data
	Listen    string // -listen
	OpsListen string // -ops-listen
	LogLevel  string // -log-level
	LogFormat string // -log-format
	// AllowRemote is -allow-remote: dev mode without authentication may listen
	// where other machines reach it.
	AllowRemote bool
}

// set takes value for dst unless it is empty or check complains.
func (d *decoder) set(dst *string, setting, value string, check func(string) error) {
	if value == "" {
		return
	}
	if err := check(value); err != nil {
		d.reportSetting(setting, "Invalid value", fmt.Sprintf("It is %q: %v.", value, err))
		return
	}
	*dst = value
}

func (d *decoder) flags(c *Config, f Flags) {
	d.set(&c.NodeID, "flag -node-id", f.NodeID, checkID)
	d.set(&c.DataDir, "flag -data", f.DataDir, checkPath)
	d.set(&c.Server.Listen, "flag -listen", f.Listen, checkListen)
	d.set(&c.Metrics.Listen, "flag -ops-listen", f.OpsListen, checkListen)
	d.set(&c.Logging.Level, "flag -log-level", f.LogLevel, checkLogLevel)
	d.set(&c.Logging.Format, "flag -log-format", f.LogFormat, checkLogFormat)
}

// environment applies the variables that override the file. An empty one
// counts as absent. Those of a store that is not used are warned about.
func (d *decoder) environment(c *Config, address *postgresAddress, lookup func(string) (string, bool)) {
	get := func(name string) string {
		value, _ := lookup(name)
		return value
	}
	text := func(dst *string, name string, check func(string) error) {
		d.set(dst, "environment "+name, get(name), check)
	}
	port := func(dst *int, name string) {
		var s string
		text(&s, name, checkPort)
		if s != "" {
			*dst, _ = strconv.Atoi(s)
		}
	}
	unused := func(why string, names ...string) {
		for _, name := range names {
			if get(name) != "" {
				c.Warnings = append(c.Warnings, fmt.Sprintf("%s is set but has no effect: %s", name, why))
			}
		}
	}

	text(&c.NodeID, "COORDINATOR_NODE_ID", checkID)
	text(&c.Logging.Level, "LOG_LEVEL", checkLogLevel)
	d.tracingEnvironment(c, lookup)
	if c.Metadata.Postgres != nil {
		text(&address.host, "DATABASE_HOST", checkHost)
		port(&address.port, "DATABASE_PORT")
		text(&address.database, "DATABASE_NAME", checkID)
		text(&address.user, "DATABASE_USER", checkID)
		if password := get("DATABASE_PASSWORD"); password != "" {
			address.password = NewSecret(password)
		}
	} else {
		unused("metadata is not in postgres",
			"DATABASE_HOST", "DATABASE_PORT", "DATABASE_NAME", "DATABASE_USER", "DATABASE_PASSWORD")
	}
	if r := c.Idempotency.Redis; r != nil {
		if len(r.Addresses) > 1 {
			unused("idempotency.addresses names several servers", "REDIS_HOST", "REDIS_PORT")
		} else if host, portText, err := net.SplitHostPort(r.Addresses[0]); err == nil {
			text(&host, "REDIS_HOST", checkHost)
			text(&portText, "REDIS_PORT", checkPort)
			r.Addresses = []string{net.JoinHostPort(host, portText)}
		}
		if password := get("REDIS_PASSWORD"); password != "" {
			r.Password = NewSecret(password)
		}
	} else {
		unused("idempotency is not in redis", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD")
	}
}

func checkPort(s string) error {
	if n, err := strconv.Atoi(s); err != nil || n < 1 || n > 65535 {
		return errors.New("want a port from 1 to 65535")
	}
	return nil
}
