package rpc

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pairdb/coordinator/coord"
)

func TestChecks(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	level := func(name string) error { _, err := checkLevel(name, coord.Quorum); return err }
	page := func(n int32) error { _, err := checkPageSize(n); return err }
	rf := func(n int32) error { return checkReplicationFactor("replication_factor", n) }
	for _, c := range []struct {
		name string
		err  error
		says string // empty: accepted
	}{
		{"tenant", checkTenant("acme"), ""},
		{"tenant of another script", checkTenant("größe-東京"), ""},
		{"tenant of 256 bytes", checkTenant(long(256)), ""},
		{"empty tenant", checkTenant(""), "tenant_id is empty, want 1 to 256 bytes"},
		{"tenant of 257 bytes", checkTenant(long(257)), "tenant_id is 257 bytes, want 1 to 256"},
		{"tenant with colon", checkTenant("a:b"), "tenant_id holds a ':'"},
		{"tenant with newline", checkTenant("a\nb"), "tenant_id holds the control character U+000A"},
		{"tenant with DEL", checkTenant("a\x7f"), "U+007F"},
		{"tenant with C1 control", checkTenant("a\u0085"), "U+0085"},
		{"tenant with NUL", checkTenant("a\x00"), "tenant_id holds a NUL at byte 1"},
		{"tenant of invalid UTF-8", checkTenant("a\xff"), "tenant_id is not valid UTF-8"},

		{"key", checkKey("a:b\n"), ""},
		{"key of 1 KiB", checkKey(long(1024)), ""},
		{"empty key", checkKey(""), "key is empty"},
		{"key of 1025 bytes", checkKey(long(1025)), "key is 1025 bytes, want 1 to 1024"},
		{"key with NUL", checkKey("\x00"), "key holds a NUL at byte 0"},
		{"key of invalid UTF-8", checkKey("\xc3\x28"), "key is not valid UTF-8"},

		{"no idempotency key", checkIdempotencyKey(""), ""},
		{"idempotency key of 256 bytes", checkIdempotencyKey(long(256)), ""},
		{"idempotency key of 257 bytes", checkIdempotencyKey(long(257)), "idempotency_key is 257 bytes, want 0 to 256"},
		{"idempotency key with NUL", checkIdempotencyKey("a\x00b"), "idempotency_key holds a NUL"},

		{"empty value", checkValue(nil, MaxValueBytes), ""},
		{"value of 10 MiB", checkValue(make([]byte, MaxValueBytes), MaxValueBytes), ""},
		{"value of 10 MiB and a byte", checkValue(make([]byte, MaxValueBytes+1), MaxValueBytes), "value is 10485761 bytes, want at most 10485760"},

		{"no level", level(""), ""},
		{"level", level("all"), ""},
		{"level in capitals", level("QUORUM"), "consistency is an unknown name of 6 bytes, want one, quorum or all"},
		{"level default", level("default"), "consistency is an unknown name"},

		{"page of 0", page(0), ""},
		{"page of 5000", page(5000), ""},
		{"page of -1", page(-1), "page_size is -1"},

		{"node", checkNodeID("storage-1"), ""},
		{"empty node", checkNodeID(""), "node_id is empty"},
		{"node with tab", checkNodeID("a\tb"), "node_id holds the control character U+0009"},

		{"host name", checkHost("node-1.storage_net.example."), ""},
		{"IPv4", checkHost("10.0.0.1"), ""},
		{"IPv6", checkHost("fe80::1"), ""},
		{"empty host", checkHost(""), "host is empty"},
		{"host with port", checkHost("node:50052"), "host is neither an IP address nor a DNS name"},
		{"host with a scheme", checkHost("unix:///run/x"), "host is neither"},
		{"host with empty label", checkHost("a..b"), "host is neither"},

		{"port", checkPort(65535), ""},
		{"port 0", checkPort(0), "port is 0, want 1 to 65535"},
		{"port 65536", checkPort(65536), "port is 65536"},

		{"virtual nodes", checkVirtualNodes(4096), ""},
		{"virtual nodes of 4097", checkVirtualNodes(4097), "virtual_nodes is 4097, want 0 (for 150) to 4096"},
		{"virtual nodes of -1", checkVirtualNodes(-1), "virtual_nodes is -1"},
	} {
		switch {
		case c.says == "" && c.err != nil:
			t.Errorf("%s: got %v, want it accepted", c.name, c.err)
		case c.says != "" && (!errors.Is(c.err, coord.ErrInvalidRequest) || !strings.Contains(c.err.Error(), c.says)):
			t.Errorf("%s: got %v, want an invalid request that says %q", c.name, c.err, c.says)
		}
	}
	for n, valid := range map[int32]bool{-1: false, 0: false, 1: true, 10: true, 11: false} {
		if err := rf(n); (err == nil) != valid || err != nil && !errors.Is(err, coord.ErrInvalidReplicationFactor) {
			t.Errorf("replication factor %d: got %v", n, err)
		}
	}
	for asked, want := range map[int32]int{0: DefaultPageSize, 1: 1, 1000: 1000, 1001: MaxPageSize} {
		if got, _ := checkPageSize(asked); got != want {
			t.Errorf("page size %d: got %d, want %d", asked, got, want)
		}
	}
}

func FuzzChecks(f *testing.F) {
	for _, s := range []string{"", "acme", "a:b", "\x00", "\xff", "a\u0085", strings.Repeat("é", 600)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkTenant(s) == nil && (s == "" || len(s) > MaxTenantBytes || strings.ContainsAny(s, ":\x00\n\x7f") || !utf8.ValidString(s)) {
			t.Errorf("tenant %q was accepted", s)
		}
		if checkKey(s) == nil && (s == "" || len(s) > MaxKeyBytes || strings.Contains(s, "\x00") || !utf8.ValidString(s)) {
			t.Errorf("key %q was accepted", s)
		}
		for _, err := range []error{checkTenant(s), checkKey(s), checkIdempotencyKey(s), checkNodeID(s), checkHost(s)} {
			if err != nil && !utf8.ValidString(err.Error()) {
				t.Errorf("the error about %q cannot be sent: %q", s, err)
			}
		}
		if p, err := parseKeysToken("acme", s); err == nil && p != nil && p.Compare(coord.Position{Token: p.Token}) < 0 {
			t.Errorf("page token %q gave the position %+v", s, p)
		}
		if after, err := parseTenantsToken(s); err == nil && after != "" && checkTenant(after) != nil {
			t.Errorf("page token %q gave the tenant %q", s, after)
		}
	})
}

func TestKeysTokens(t *testing.T) {
	const tenant = "m"
	for _, next := range []coord.Position{
		{Token: 7, Tenant: "a", Key: "k"},
		{Token: 7, Tenant: "m", Key: "k"},
		{Token: 7, Tenant: "m", Key: ""},
		{Token: 1<<64 - 1, Tenant: "mm", Key: "k"},
		{Token: 0, Tenant: "z", Key: "secret"},
	} {
		token := keysToken(tenant, &next)
		got, err := parseKeysToken(tenant, token)
		if err != nil {
			t.Fatalf("%+v: %v", next, err)
		}
		// What lies behind the position must be the same for the tenant, and
		// nothing of another tenant may be in it.
		for _, key := range []string{"", "a", "k", "l"} {
			at := coord.Position{Token: next.Token, Tenant: tenant, Key: key}
			if (at.Compare(next) > 0) != (at.Compare(*got) > 0) {
				t.Errorf("%+v: key %q is on another side of %+v", next, key, got)
			}
		}
		if next.Tenant != tenant && strings.Contains(got.Key, next.Key) {
			t.Errorf("%+v: the token carries another tenant's key", next)
		}
	}
	if token := keysToken(tenant, nil); token != "" {
		t.Errorf("the end of a listing has the token %q", token)
	}
	for _, bad := range []string{"!", "AA", tenantsToken("m"), strings.Repeat("A", 4000)} {
		if _, err := parseKeysToken(tenant, bad); !errors.Is(err, coord.ErrInvalidRequest) {
			t.Errorf("token %q: got %v, want an invalid request", bad, err)
		}
	}
}
