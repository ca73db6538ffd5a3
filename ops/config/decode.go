package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// Bounds that are wide enough for anything sensible and catch a slip of the unit.
const (
	minTimeout = time.Millisecond
	maxTimeout = time.Hour
	// maxEmbedded bounds the storage nodes in one process.
	maxEmbedded = 64
	maxCount    = 1_000_000_000
)

// file decodes everything that the file says into c, except for the metadata
// store's address, which it returns.
func (d *decoder) file(c *Config, f *fileSchema) postgresAddress {
	top := block{d, ""}
	top.text(&c.NodeID, f.NodeID, checkID)
	top.text(&c.DataDir, f.DataDir, checkPath)
	d.server(&c.Server, f.Server)
	address := d.metadata(&c.Metadata, f.Metadata)
	d.idempotency(&c.Idempotency, f.Idempotency)
	d.hashRing(&c.HashRing, f.HashRing)
	d.storageNodes(c, f.StorageNodes)
	d.storage(&c.Storage, f.Storage)
	d.consistency(&c.Consistency, f.Consistency)
	d.cache(&c.Cache, f.Cache)
	d.maintenance(c, f.Maintenance)
	d.auth(c, f.Auth)
	d.limits(&c.Limits, f.Limits)
	d.audit(&c.Audit, f.Audit)
	d.metrics(&c.Metrics, f.Metrics)
	d.logging(&c.Logging, f.Logging)
	d.tracing(c, f.Tracing)
	return address
}

// each decodes every block of a kind of which one may stand.
func each[B any](d *decoder, path string, blocks []B, at func(*B) hcl.Range, decode func(block, *B)) {
	ranges := make([]hcl.Range, len(blocks))
	for i := range blocks {
		ranges[i] = at(&blocks[i])
		decode(block{d, path}, &blocks[i])
	}
	block{d, path}.only(path, ranges)
}

func (d *decoder) server(c *Server, blocks []serverBlock) {
	each(d, "server", blocks, func(s *serverBlock) hcl.Range { return s.Range }, func(b block, s *serverBlock) {
		b.text(&c.Listen, s.Listen, checkListen)
		b.integer(&c.MaxConnections, s.MaxConnections, 1, 1_000_000)
		b.duration(&c.ReadTimeout, s.ReadTimeout, minTimeout, maxTimeout)
		b.duration(&c.WriteTimeout, s.WriteTimeout, minTimeout, maxTimeout)
		b.duration(&c.ShutdownTimeout, s.ShutdownTimeout, 0, maxTimeout)
		each(d, "server.tls", s.TLS, func(t *serverTLSBlock) hcl.Range { return t.Range }, func(b block, t *serverTLSBlock) {
			c.TLS = &ServerTLS{}
			b.text(&c.TLS.CertFile, t.CertFile, checkPath)
			b.text(&c.TLS.KeyFile, t.KeyFile, checkPath)
			b.text(&c.TLS.ClientCAFile, t.ClientCAFile, checkPath)
			if t.ClientNames != nil {
				b.texts(&c.TLS.ClientNames, t.ClientNames, checkHost)
				if t.ClientCAFile == nil {
					b.report(t.ClientNames.Range, "Names without authority", "server.tls.client_names needs server.tls.client_ca_file beside it.")
				}
			}
			b.pair(t.CertFile, t.KeyFile)
			if t.CertFile == nil && t.KeyFile == nil {
				b.report(t.Range, "Missing certificate", "server.tls needs cert_file and key_file.")
			}
		})
	})
}

// pair reports a certificate without its key, or a key without its certificate.
func (b block) pair(cert, key *hcl.Attribute) {
	switch {
	case cert != nil && key == nil:
		b.report(cert.Range, "Certificate without key", fmt.Sprintf("%s.cert_file needs %s.key_file beside it.", b.path, b.path))
	case cert == nil && key != nil:
		b.report(key.Range, "Key without certificate", fmt.Sprintf("%s.key_file needs %s.cert_file beside it.", b.path, b.path))
	}
}

func (d *decoder) storageNodes(c *Config, blocks []storageNodeBlock) {
	ids := map[string]hcl.Range{}
	addresses := map[string]hcl.Range{}
	for _, s := range blocks {
		b := block{d, "storage_node"}
		if err := checkID(s.ID); err != nil {
			d.report(s.LabelRange, "Invalid storage node id", fmt.Sprintf("The label is %q: %v.", s.ID, err))
		}
		if first, ok := ids[s.ID]; ok {
			d.report(s.LabelRange, "Duplicate storage node", fmt.Sprintf("%q is already at line %d.", s.ID, first.Start.Line))
		} else {
			ids[s.ID] = s.LabelRange
		}
		node := StorageNode{ID: s.ID, VirtualNodes: c.HashRing.VirtualNodes}
		var address string
		b.text(&address, s.Address, checkAddress)
		b.integer(&node.VirtualNodes, s.VirtualNodes, 1, ring.MaxVirtualNodes)
		if s.Address == nil {
			d.report(s.Range, "Missing address", `A storage_node needs address = "HOST:PORT".`)
		}
		if address != "" {
			node.Host, node.Port, _ = splitAddress(address, 1)
			if first, ok := addresses[address]; ok {
				d.report(s.Address.Expr.Range(), "Duplicate storage node address",
					fmt.Sprintf("%q is already at line %d.", address, first.Start.Line))
			} else {
				addresses[address] = s.Address.Range
			}
		}
		c.StorageNodes = append(c.StorageNodes, node)
	}
}

func (d *decoder) storage(c *Storage, blocks []storageBlock) {
	each(d, "storage", blocks, func(s *storageBlock) hcl.Range { return s.Range }, func(b block, s *storageBlock) {
		b.integer(&c.Embedded, s.Embedded, 0, maxEmbedded)
		d.clientTLS(&c.TLS, "storage.tls", s.TLS)
	})
}

func (d *decoder) clientTLS(dst **ClientTLS, path string, blocks []clientTLSBlock) {
	each(d, path, blocks, func(t *clientTLSBlock) hcl.Range { return t.Range }, func(b block, t *clientTLSBlock) {
		c := &ClientTLS{}
		b.text(&c.CAFile, t.CAFile, checkPath)
		b.text(&c.CertFile, t.CertFile, checkPath)
		b.text(&c.KeyFile, t.KeyFile, checkPath)
		b.pair(t.CertFile, t.KeyFile)
		*dst = c
	})
}

func (d *decoder) hashRing(c *HashRing, blocks []hashRingBlock) {
	each(d, "hash_ring", blocks, func(h *hashRingBlock) hcl.Range { return h.Range }, func(b block, h *hashRingBlock) {
		b.integer(&c.VirtualNodes, h.VirtualNodes, 1, ring.MaxVirtualNodes)
		b.duration(&c.UpdateInterval, h.UpdateInterval, 100*time.Millisecond, maxTimeout)
	})
}

func (d *decoder) consistency(c *Consistency, blocks []consistencyBlock) {
	each(d, "consistency", blocks, func(s *consistencyBlock) hcl.Range { return s.Range }, func(b block, s *consistencyBlock) {
		level := c.DefaultLevel.String()
		b.text(&level, s.DefaultLevel, oneOf("one", "quorum", "all"))
		if parsed, err := coord.ParseLevel(level); err == nil {
			c.DefaultLevel = parsed
		}
		b.duration(&c.WriteTimeout, s.WriteTimeout, minTimeout, maxTimeout)
		b.duration(&c.ReadTimeout, s.ReadTimeout, minTimeout, maxTimeout)
		b.boolean(&c.RepairAsync, s.RepairAsync)
	})
}

func (d *decoder) cache(c *Cache, blocks []cacheBlock) {
	each(d, "cache", blocks, func(s *cacheBlock) hcl.Range { return s.Range }, func(b block, s *cacheBlock) {
		b.duration(&c.TenantConfigTTL, s.TenantConfigTTL, minTimeout, 24*time.Hour)
		b.integer(&c.MaxSize, s.MaxSize, 1, maxCount)
	})
}

func (d *decoder) maintenance(c *Config, blocks []maintenanceBlock) {
	each(d, "maintenance", blocks, func(m *maintenanceBlock) hcl.Range { return m.Range }, func(b block, m *maintenanceBlock) {
		to := &c.Maintenance
		b.integer(&to.BytesPerSecond, m.BytesPerSecond, 1<<10, 1<<40)
		b.duration(&to.CleanupDelay, m.CleanupDelay, time.Second, 24*time.Hour)
		b.duration(&to.RepairInterval, m.RepairInterval, time.Second, 7*24*time.Hour)
		b.duration(&to.HintLifetime, m.HintLifetime, time.Second, 30*24*time.Hour)
		b.duration(&to.TombstoneGrace, m.TombstoneGrace, time.Second, 365*24*time.Hour)
		if least := c.LeastTombstoneGrace(); m.TombstoneGrace != nil && to.TombstoneGrace != 0 && to.TombstoneGrace < least {
			b.report(m.TombstoneGrace.Expr.Range(), "Tombstones would be forgotten too soon",
				"maintenance.tombstone_grace is "+to.TombstoneGrace.String()+", want at least "+least.String()+
					": the longer of maintenance.hint_lifetime and idempotency's ttl, and consistency.write_timeout and 1m0s.")
		}
	})
}

func (d *decoder) auth(c *Config, blocks []authBlock) {
	each(d, "auth", blocks, func(a *authBlock) hcl.Range { return a.Range }, func(b block, a *authBlock) {
		if len(a.JWT) == 0 {
			b.report(a.Range, "Missing jwt block", "auth needs jwt { ... }: how tokens are verified.")
		}
		each(d, "auth.jwt", a.JWT, func(j *jwtBlock) hcl.Range { return j.Range }, func(b block, j *jwtBlock) {
			c.Auth = &Auth{JWT: defaultJWT()}
			b.jwt(&c.Auth.JWT, j)
		})
	})
}

func (b block) jwt(c *JWT, j *jwtBlock) {
	b.text(&c.Issuer, j.Issuer, nil)
	b.text(&c.Audience, j.Audience, nil)
	b.duration(&c.Leeway, j.Leeway, 0, maxTimeout)
	b.text(&c.JWKSFile, j.JWKSFile, checkPath)
	b.text(&c.TenantClaim, j.TenantClaim, checkID)
	b.text(&c.RolesClaim, j.RolesClaim, checkID)
	if len(j.Keys) == 0 && j.JWKSFile == nil {
		b.report(j.Range, "Missing keys", `auth.jwt needs key "KID" { ... } or jwks_file: what tokens are signed with.`)
	}
	ids := map[string]bool{}
	for _, k := range j.Keys {
		key := block{b.decoder, "auth.jwt.key"}
		out := JWTKey{ID: k.ID}
		if ids[k.ID] {
			key.report(k.LabelRange, "Duplicate key", fmt.Sprintf("%q is already given.", k.ID))
		}
		ids[k.ID] = true
		key.text(&out.Algorithm, k.Algorithm, oneOf("HS256", "HS384", "HS512", "RS256", "RS384", "RS512",
			"PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"))
		key.text(&out.File, k.File, checkPath)
		if k.Algorithm == nil || k.File == nil {
			key.report(k.Range, "Incomplete key", "auth.jwt.key needs algorithm and file.")
		}
		c.Keys = append(c.Keys, out)
	}
}

func (d *decoder) limits(c *Limits, blocks []limitsBlock) {
	each(d, "limits", blocks, func(l *limitsBlock) hcl.Range { return l.Range }, func(b block, l *limitsBlock) {
		b.integer(&c.MaxValueBytes, l.MaxValueBytes, 1, MaxValueBytes)
		b.integer(&c.MaxInFlight, l.MaxInFlight, 1, maxCount)
		b.integer(&c.MaxHeldBytes, l.MaxHeldBytes, 1<<20, 1<<50)
		each(d, "limits.tenant", l.Tenant, func(t *tenantLimitsBlock) hcl.Range { return t.Range }, func(b block, t *tenantLimitsBlock) {
			b.integer64(&c.Tenant.OperationsPerSecond, t.OperationsPerSecond, 0, maxCount)
			b.integer64(&c.Tenant.BytesPerSecond, t.BytesPerSecond, 0, 1<<50)
			b.integer64(&c.Tenant.Concurrency, t.Concurrency, 0, maxCount)
		})
	})
}

func (d *decoder) audit(c *Audit, blocks []auditBlock) {
	each(d, "audit", blocks, func(a *auditBlock) hcl.Range { return a.Range }, func(b block, a *auditBlock) {
		b.text(&c.File, a.File, checkPath)
	})
}

func (d *decoder) metrics(c *Metrics, blocks []metricsBlock) {
	each(d, "metrics", blocks, func(m *metricsBlock) hcl.Range { return m.Range }, func(b block, m *metricsBlock) {
		b.boolean(&c.Enabled, m.Enabled)
		b.text(&c.Listen, m.Listen, checkListen)
		b.text(&c.Path, m.Path, checkMetricsPath)
		b.boolean(&c.PProf, m.PProf)
	})
}

// checkMetricsPath wants a path that nothing else answers.
func checkMetricsPath(s string) error {
	if !strings.HasPrefix(s, "/") || strings.ContainsAny(s, " {}?#") {
		return errors.New(`want a path as in "/metrics"`)
	}
	for _, taken := range []string{"/health/", "/debug/"} {
		if s == "/" || strings.HasPrefix(s+"/", taken) {
			return errors.New("something else is served there")
		}
	}
	return nil
}

func (d *decoder) logging(c *Logging, blocks []loggingBlock) {
	each(d, "logging", blocks, func(l *loggingBlock) hcl.Range { return l.Range }, func(b block, l *loggingBlock) {
		b.text(&c.Level, l.Level, checkLogLevel)
		b.text(&c.Format, l.Format, checkLogFormat)
	})
}
