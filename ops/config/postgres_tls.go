package config

import (
	"errors"
	"net/url"
)

// postgresTLS decodes a tls block, and makes it part of address, another URL to
// which it applies, unless that is empty.
func (d *decoder) postgresTLS(path string, blocks []clientTLSBlock, address *Secret) *ClientTLS {
	var t *ClientTLS
	d.clientTLS(&t, path, blocks)
	if t == nil {
		return nil
	}
	with, err := withTLS(*address, t)
	if err != nil {
		d.report(blocks[0].Range, "Cannot add TLS to the url", err.Error()+".")
		return t
	}
	*address = with
	return t
}

// withTLS makes t the TLS of a Postgres URL: the server's certificate is always
// verified, by t's authorities or the system's.
func withTLS(address Secret, t *ClientTLS) (Secret, error) {
	if t == nil || address.Empty() {
		return address, nil
	}
	u, err := url.Parse(address.Reveal())
	if err != nil { // which would quote the URL, password and all
		return Secret{}, errors.New("it cannot be taken apart; give sslmode, sslrootcert, sslcert and sslkey as its parameters instead")
	}
	q := u.Query()
	for _, name := range []string{"sslmode", "sslrootcert", "sslcert", "sslkey"} {
		if q.Has(name) {
			return Secret{}, errors.New("it has " + name + " already; keep that or the tls block")
		}
	}
	q.Set("sslmode", "verify-full")
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("sslrootcert", t.CAFile)
	set("sslcert", t.CertFile)
	set("sslkey", t.KeyFile)
	u.RawQuery = q.Encode()
	return NewSecret(u.String()), nil
}
