// Package config reads the coordinator's configuration: an HCL file, the
// environment and flags, over defaults. It finds every fault at once and says
// where each is. Its types are plain values; main turns them into the options
// of the packages that it starts.
package config

import (
	"time"

	"github.com/pairdb/coordinator/coord"
)

// Config is a complete, checked configuration. Nobody changes it once Load has
// returned it.
type Config struct {
	NodeID       string
	DataDir      string // in dev mode empty unless given: a temporary directory is meant
	Server       Server
	Metadata     Metadata
	Idempotency  Idempotency
	StorageNodes []StorageNode // in the order of the file
	Storage      Storage
	HashRing     HashRing
	Consistency  Consistency
	Cache        Cache
	Maintenance  Maintenance
	Auth         *Auth // nil: no authentication
	Limits       Limits
	Audit        Audit
	Metrics      Metrics
	Logging      Logging
	Tracing      *Tracing // nil: nothing is traced

	// Warnings are lines for the log: settings that have no effect.
	Warnings []string
}

// Server is the gRPC listener.
type Server struct {
	Listen          string
	MaxConnections  int
	ReadTimeout     time.Duration // of a whole read RPC
	WriteTimeout    time.Duration // of a whole write or delete RPC
	ShutdownTimeout time.Duration // for requests in flight at a shutdown
	TLS             *ServerTLS    // nil: plain text
}

// ServerTLS names PEM files. With ClientCAFile, clients need a certificate; with
// ClientNames, one for any of those DNS names.
type ServerTLS struct {
	CertFile, KeyFile, ClientCAFile string
	ClientNames                     []string
}

// Metadata names the metadata store: exactly one field is set.
type Metadata struct {
	Postgres *Postgres
	SQLite   *SQLite
}

// Postgres is a metadata store in PostgreSQL.
type Postgres struct {
	// URL is complete: postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETERS,
	// the parameters of TLS included; so are the other URLs.
	URL             Secret
	SessionURL      Secret // past a pooler that does not keep sessions; empty: URL does
	MaxConnections  int
	MinConnections  int
	ConnMaxLifetime time.Duration
}

// SQLite is a metadata store in a file. An empty path means metadata.db in the
// data directory.
type SQLite struct {
	Path string
}

// Idempotency names the store of keyed requests: exactly one field is set.
type Idempotency struct {
	Redis    *Redis
	Badger   *Badger
	Postgres *PostgresClaims
	TTL      time.Duration // how long a keyed request is remembered
}

// PostgresClaims is an idempotency store in PostgreSQL. An empty URL means the
// database of the metadata.
type PostgresClaims struct {
	URL            Secret
	MaxConnections int
}

// Redis is an idempotency store in Redis. Several addresses are those of a
// cluster, or, with MasterName, of sentinels.
type Redis struct {
	Addresses        []string // HOST:PORT each
	MasterName       string
	Username         string // empty: Redis's default user
	Password         Secret
	SentinelPassword Secret
	DB               int
	MaxRetries       int
	PoolSize         int
	MinIdleConns     int
	WaitReplicas     int        // replicas that must have a claim before it counts
	TLS              *ClientTLS // nil: plain text
}

// Badger is an idempotency store in a directory. An empty path means
// idempotency in the data directory.
type Badger struct {
	Path string
}

// StorageNode is a node to register at start.
type StorageNode struct {
	ID           string
	Host         string
	Port         int
	VirtualNodes int
}

// Storage is how storage nodes are reached, and how many run in this process.
type Storage struct {
	Embedded int
	TLS      *ClientTLS // nil: plain text
}

// ClientTLS names PEM files. Without CAFile the system's authorities count;
// CertFile and KeyFile, given together, are this process's own certificate.
type ClientTLS struct {
	CAFile, CertFile, KeyFile string
}

// Maintenance is what coordinators do in the background.
type Maintenance struct {
	BytesPerSecond int           // of values that are copied, by a change of topology or a repair
	CleanupDelay   time.Duration // after a change nodes keep so long what they do not own any more
	RepairInterval time.Duration // in which all replicas are compared once
	HintLifetime   time.Duration
	TombstoneGrace time.Duration // 0: the least that is safe
}

// LeastTombstoneGrace is how long tombstones must be kept: until nothing that
// might bring back what they replaced can arrive any more.
func (c *Config) LeastTombstoneGrace() time.Duration {
	return max(c.Maintenance.HintLifetime, c.Idempotency.TTL) + c.Consistency.WriteTimeout + coord.MessageLifetime
}

// HashRing is the ring of storage nodes.
type HashRing struct {
	VirtualNodes   int           // of a node that says nothing else
	UpdateInterval time.Duration // between looks at the metadata store for a changed ring
}

// Consistency is how replicas are asked.
type Consistency struct {
	DefaultLevel coord.Level   // never coord.LevelDefault
	WriteTimeout time.Duration // of the replica phase of a write
	ReadTimeout  time.Duration // of the replica phase of a read
	RepairAsync  bool
}

// Cache is the cache of tenants.
type Cache struct {
	TenantConfigTTL time.Duration
	MaxSize         int // tenants
}

// Auth is how requests are authenticated.
type Auth struct {
	JWT JWT
}

// JWT is how bearer tokens are verified, and which claims say what they allow.
type JWT struct {
	Issuer, Audience string // empty: not checked
	Leeway           time.Duration
	Keys             []JWTKey
	JWKSFile         string
	TenantClaim      string
	RolesClaim       string
}

// JWTKey is a verification key by its key id.
type JWTKey struct {
	ID, Algorithm, File string
}

// Limits protect the coordinator and its tenants from each other.
type Limits struct {
	MaxValueBytes int
	MaxInFlight   int
	MaxHeldBytes  int // of values in memory
	Tenant        TenantLimits
}

// TenantLimits hold for each tenant by itself; 0 means no limit.
type TenantLimits struct {
	OperationsPerSecond int64
	BytesPerSecond      int64
	Concurrency         int64
}

// Audit is where operations of administrators are written.
type Audit struct {
	File string // empty: the log
}

// Metrics is the listener of everything over HTTP. Enabled is about Path alone.
type Metrics struct {
	Enabled bool
	Listen  string
	Path    string
	PProf   bool // serve /debug/pprof
}

// Logging is what the log holds and how it looks.
type Logging struct {
	Level  string // trace, debug, info, warn or error
	Format string // json or text
}

// MaxValueBytes is the most bytes that a value may have anywhere.
const MaxValueBytes = 10 << 20

// defaults are the settings where nothing else is said. Dev mode differs where
// a person at a terminal wants something else than a cluster does.
func defaults(dev bool) *Config {
	c := &Config{
		NodeID:  "coordinator-1",
		DataDir: "/var/lib/pairdb",
		Server: Server{
			Listen:          "0.0.0.0:50051",
			MaxConnections:  1000,
			ReadTimeout:     10 * time.Second,
			WriteTimeout:    10 * time.Second,
			ShutdownTimeout: 30 * time.Second,
		},
		Idempotency: Idempotency{TTL: coord.DefaultIdempotencyTTL},
		HashRing:    HashRing{VirtualNodes: 150, UpdateInterval: 30 * time.Second},
		Consistency: Consistency{
			DefaultLevel: coord.Quorum,
			WriteTimeout: 5 * time.Second,
			ReadTimeout:  3 * time.Second,
			RepairAsync:  true,
		},
		Cache: Cache{TenantConfigTTL: 5 * time.Minute, MaxSize: 10_000},
		Maintenance: Maintenance{
			BytesPerSecond: 64 << 20,
			CleanupDelay:   time.Minute,
			RepairInterval: time.Minute,
			HintLifetime:   coord.DefaultHintLifetime,
		},
		Limits:  Limits{MaxValueBytes: MaxValueBytes, MaxInFlight: 10_000, MaxHeldBytes: 512 << 20},
		Metrics: Metrics{Enabled: true, Listen: "0.0.0.0:9090", Path: "/metrics"},
		Logging: Logging{Level: "info", Format: "json"},
	}
	if dev {
		c.DataDir = ""
		c.Server.Listen = "127.0.0.1:50051"
		c.Metrics.Listen = "127.0.0.1:9090"
		c.Storage.Embedded = 3
		c.Logging.Format = "text"
	}
	return c
}

func defaultPostgres() *Postgres {
	return &Postgres{MaxConnections: 50, MinConnections: 10, ConnMaxLifetime: 30 * time.Minute}
}

func defaultRedis() *Redis {
	return &Redis{Addresses: []string{"localhost:6379"}, MaxRetries: 3, PoolSize: 100, MinIdleConns: 10}
}

func defaultJWT() JWT {
	return JWT{Leeway: 30 * time.Second, TenantClaim: "tenant_id", RolesClaim: "roles"}
}
