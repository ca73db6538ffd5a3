package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

const maxPoolSize = 100_000

// postgresAddress is where Postgres is, in parts that the environment may
// replace one by one.
type postgresAddress struct {
	url      Secret // as the file gives it; then the parts stand for what replaces it
	host     string
	port     int
	database string
	user     string
	password Secret
	tls      *ClientTLS // as the file gives it, apart from the url's parameters
}

func defaultPostgresAddress() postgresAddress {
	return postgresAddress{host: "localhost", port: 5432, database: "pairdb_metadata", user: "coordinator"}
}

// complete makes one URL. Parts that are not empty replace those of url.
func (a postgresAddress) complete() (Secret, error) {
	plain, err := a.plain()
	if err != nil {
		return plain, err
	}
	return withTLS(plain, a.tls)
}

func (a postgresAddress) plain() (Secret, error) {
	u := &url.URL{Scheme: "postgres"}
	if !a.url.Empty() {
		if a.host == "" && a.port == 0 && a.database == "" && a.user == "" && a.password.Empty() {
			return a.url, nil
		}
		parsed, err := url.Parse(a.url.Reveal())
		if err != nil { // which would quote the URL, password and all
			return Secret{}, errors.New("metadata.url cannot be taken apart; give host, port, database, user and password instead")
		}
		u = parsed
		if a.host == "" {
			a.host = u.Hostname()
		}
		if a.port == 0 {
			a.port = 5432
			if p, err := strconv.Atoi(u.Port()); err == nil {
				a.port = p
			}
		}
		if a.user == "" {
			a.user = u.User.Username()
		}
		if password, ok := u.User.Password(); ok && a.password.Empty() {
			a.password = NewSecret(password)
		}
	}
	if strings.HasPrefix(a.host, "/") { // the directory of a Unix socket
		q := u.Query()
		q.Set("host", a.host)
		q.Set("port", strconv.Itoa(a.port))
		u.Host, u.RawQuery = "", q.Encode()
	} else {
		u.Host = net.JoinHostPort(a.host, strconv.Itoa(a.port))
	}
	switch {
	case !a.password.Empty():
		u.User = url.UserPassword(a.user, a.password.Reveal())
	case a.user != "":
		u.User = url.User(a.user)
	}
	if a.database != "" {
		u.Path = "/" + a.database
	}
	return NewSecret(u.String()), nil
}

func (d *decoder) backendLabel(kind string, blocks []backendBlock, known ...string) {
	ranges := make([]hcl.Range, len(blocks))
	for i, b := range blocks {
		ranges[i] = b.Range
		if oneOf(known...)(b.Backend) != nil {
			d.report(b.LabelRange, "Unknown "+kind+" backend",
				fmt.Sprintf("%q is not one; want %s.", b.Backend, alternatives(known)))
		}
	}
	block{d, ""}.only(kind, ranges)
}

// alternatives writes "a", "b" or "c".
func alternatives(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = strconv.Quote(name)
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// metadata decodes into dst. The address of Postgres is returned apart, until
// the environment has been heard.
func (d *decoder) metadata(dst *Metadata, blocks []backendBlock) (address postgresAddress) {
	d.backendLabel("metadata", blocks, "postgres", "sqlite")
	for _, raw := range blocks {
		b := block{d, "metadata"}
		switch raw.Backend {
		case "postgres":
			var body postgresBody
			d.decode(raw.Body, &body)
			p := defaultPostgres()
			address = b.postgresAddress(&body)
			b.postgresURL(&p.SessionURL, body.SessionURL)
			b.integer(&p.MaxConnections, body.MaxConnections, 1, maxPoolSize)
			b.integer(&p.MinConnections, body.MinConnections, 0, maxPoolSize)
			b.duration(&p.ConnMaxLifetime, body.ConnMaxLifetime, time.Second, 24*time.Hour)
			address.tls = d.postgresTLS("metadata.tls", body.TLS, &p.SessionURL)
			if p.MinConnections > p.MaxConnections {
				b.report(firstRange(raw.Range, body.MinConnections, body.MaxConnections),
					"Min connections above max connections",
					fmt.Sprintf("metadata.min_connections is %d, metadata.max_connections %d.", p.MinConnections, p.MaxConnections))
			}
			*dst = Metadata{Postgres: p}
		case "sqlite":
			var body sqliteBody
			d.decode(raw.Body, &body)
			s := &SQLite{}
			b.text(&s.Path, body.Path, checkPath)
			*dst = Metadata{SQLite: s}
		}
	}
	return address
}

func (b block) postgresAddress(body *postgresBody) postgresAddress {
	a := defaultPostgresAddress()
	if body.URL != nil {
		a = postgresAddress{}
		b.postgresURL(&a.url, body.URL)
		for _, attr := range []*hcl.Attribute{body.Host, body.Port, body.Database, body.User, body.Password} {
			if attr != nil {
				b.report(attr.Range, "Address given twice",
					fmt.Sprintf("metadata.url already says it; remove %s, or url.", attr.Name))
			}
		}
		return a
	}
	b.text(&a.host, body.Host, checkHost)
	b.integer(&a.port, body.Port, 1, 65535)
	b.text(&a.database, body.Database, checkID)
	b.text(&a.user, body.User, checkID)
	b.secret(&a.password, body.Password)
	return a
}

func (b block) postgresURL(dst *Secret, attr *hcl.Attribute) {
	if attr == nil {
		return
	}
	b.secret(dst, attr)
	if !isPostgresURL(dst.Reveal()) {
		b.report(attr.Expr.Range(), "Invalid "+words(attr.Name),
			fmt.Sprintf("%s must be as postgres://USER:PASSWORD@HOST:PORT/DATABASE.", b.name(attr)))
	}
}

// isPostgresURL tells whether s may be one: of a server, of several with commas
// between, or without any, for a Unix socket or a host among the parameters.
func isPostgresURL(s string) bool {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme != "postgres" && scheme != "postgresql" {
		return false
	}
	authority := rest
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		authority = rest[:end]
	}
	_, servers, ok := strings.Cut(authority, "@")
	if !ok {
		servers = authority
	}
	for _, server := range strings.Split(servers, ",") {
		_, port, given := strings.Cut(server[strings.LastIndexByte(server, ']')+1:], ":")
		if n, err := strconv.ParseUint(port, 10, 16); given && (err != nil || n == 0) {
			return false
		}
	}
	return true
}

func (d *decoder) idempotency(dst *Idempotency, blocks []backendBlock) {
	d.backendLabel("idempotency", blocks, "redis", "badger", "postgres")
	const minTTL, maxTTL = time.Second, 30 * 24 * time.Hour
	for _, raw := range blocks {
		b := block{d, "idempotency"}
		switch raw.Backend {
		case "redis":
			var body redisBody
			d.decode(raw.Body, &body)
			r := defaultRedis()
			b.redisAddress(r, &body)
			b.text(&r.Username, body.Username, checkID)
			b.secret(&r.Password, body.Password)
			b.integer(&r.WaitReplicas, body.WaitReplicas, 0, 16)
			b.secret(&r.SentinelPassword, body.SentinelPassword)
			d.clientTLS(&r.TLS, "idempotency.tls", body.TLS)
			b.integer(&r.DB, body.DB, 0, 1<<20)
			b.integer(&r.MaxRetries, body.MaxRetries, 0, 100)
			b.integer(&r.PoolSize, body.PoolSize, 1, maxPoolSize)
			b.integer(&r.MinIdleConns, body.MinIdleConns, 0, maxPoolSize)
			if r.MinIdleConns > r.PoolSize {
				b.report(firstRange(raw.Range, body.MinIdleConns, body.PoolSize), "Min idle conns above pool size",
					fmt.Sprintf("idempotency.min_idle_conns is %d, idempotency.pool_size %d.", r.MinIdleConns, r.PoolSize))
			}
			*dst = Idempotency{Redis: r, TTL: dst.TTL}
			b.duration(&dst.TTL, body.TTL, minTTL, maxTTL)
		case "badger":
			var body badgerBody
			d.decode(raw.Body, &body)
			*dst = Idempotency{Badger: &Badger{}, TTL: dst.TTL}
			b.text(&dst.Badger.Path, body.Path, checkPath)
			b.duration(&dst.TTL, body.TTL, minTTL, maxTTL)
		case "postgres":
			var body postgresClaimsBody
			d.decode(raw.Body, &body)
			*dst = Idempotency{Postgres: &PostgresClaims{MaxConnections: 20}, TTL: dst.TTL}
			b.postgresURL(&dst.Postgres.URL, body.URL)
			b.integer(&dst.Postgres.MaxConnections, body.MaxConnections, 1, maxPoolSize)
			b.duration(&dst.TTL, body.TTL, minTTL, maxTTL)
			if t := d.postgresTLS("idempotency.tls", body.TLS, &dst.Postgres.URL); t != nil && body.URL == nil {
				b.report(body.TLS[0].Range, "TLS without url", "idempotency.tls goes with idempotency.url; the database of the metadata has metadata.tls.")
			}
		}
	}
}

// redisAddress decodes whichever way the address is given: as one, as its
// parts, or as a list.
func (b block) redisAddress(dst *Redis, body *redisBody) {
	b.text(&dst.MasterName, body.MasterName, checkID)
	given := 0
	for _, one := range []bool{body.Address != nil, body.Addresses != nil, body.Host != nil || body.Port != nil} {
		if one {
			given++
		}
	}
	if given > 1 {
		b.report(firstRange(hcl.Range{}, body.Host, body.Port, body.Addresses, body.Address), "Address given twice",
			"Keep one of idempotency.address, idempotency.addresses, and host with port.")
		return
	}
	switch {
	case body.Addresses != nil:
		b.texts(&dst.Addresses, body.Addresses, checkAddress)
	case body.Host != nil || body.Port != nil:
		host, port := "localhost", 6379
		b.text(&host, body.Host, checkHost)
		b.integer(&port, body.Port, 1, 65535)
		dst.Addresses = []string{net.JoinHostPort(host, strconv.Itoa(port))}
	default:
		b.text(&dst.Addresses[0], body.Address, checkAddress)
	}
}

// firstRange is the value of the first attribute that is there, else fallback.
func firstRange(fallback hcl.Range, attrs ...*hcl.Attribute) hcl.Range {
	for _, attr := range attrs {
		if attr != nil {
			return attr.Expr.Range()
		}
	}
	return fallback
}
