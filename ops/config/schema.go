package config

import "github.com/hashicorp/hcl/v2"

// The blocks and attributes of the file. Attributes stay undecoded, so that
// each can be checked with its own range at hand, and with words of our own.
// Blocks that may stand once are slices all the same: a second one is then
// checked like the first, and reported.

type fileSchema struct {
	NodeID       *hcl.Attribute     `hcl:"node_id,optional"`
	DataDir      *hcl.Attribute     `hcl:"data_dir,optional"`
	Server       []serverBlock      `hcl:"server,block"`
	Metadata     []backendBlock     `hcl:"metadata,block"`
	Idempotency  []backendBlock     `hcl:"idempotency,block"`
	StorageNodes []storageNodeBlock `hcl:"storage_node,block"`
	Storage      []storageBlock     `hcl:"storage,block"`
	HashRing     []hashRingBlock    `hcl:"hash_ring,block"`
	Consistency  []consistencyBlock `hcl:"consistency,block"`
	Cache        []cacheBlock       `hcl:"cache,block"`
	Maintenance  []maintenanceBlock `hcl:"maintenance,block"`
	Auth         []authBlock        `hcl:"auth,block"`
	Limits       []limitsBlock      `hcl:"limits,block"`
	Audit        []auditBlock       `hcl:"audit,block"`
	Metrics      []metricsBlock     `hcl:"metrics,block"`
	Logging      []loggingBlock     `hcl:"logging,block"`
	Tracing      []tracingBlock     `hcl:"tracing,block"`
}

type serverBlock struct {
	Range           hcl.Range        `hcl:",def_range"`
	Listen          *hcl.Attribute   `hcl:"listen,optional"`
	MaxConnections  *hcl.Attribute   `hcl:"max_connections,optional"`
	ReadTimeout     *hcl.Attribute   `hcl:"read_timeout,optional"`
	WriteTimeout    *hcl.Attribute   `hcl:"write_timeout,optional"`
	ShutdownTimeout *hcl.Attribute   `hcl:"shutdown_timeout,optional"`
	TLS             []serverTLSBlock `hcl:"tls,block"`
}

type serverTLSBlock struct {
	Range        hcl.Range      `hcl:",def_range"`
	CertFile     *hcl.Attribute `hcl:"cert_file,optional"`
	KeyFile      *hcl.Attribute `hcl:"key_file,optional"`
	ClientCAFile *hcl.Attribute `hcl:"client_ca_file,optional"`
	ClientNames  *hcl.Attribute `hcl:"client_names,optional"`
}

// backendBlock is a block whose label says which attributes it has.
type backendBlock struct {
	Range      hcl.Range `hcl:",def_range"`
	Backend    string    `hcl:"backend,label"`
	LabelRange hcl.Range `hcl:"backend,label_range"`
	Body       hcl.Body  `hcl:",remain"`
}

type postgresBody struct {
	URL             *hcl.Attribute   `hcl:"url,optional"`
	SessionURL      *hcl.Attribute   `hcl:"session_url,optional"`
	Host            *hcl.Attribute   `hcl:"host,optional"`
	Port            *hcl.Attribute   `hcl:"port,optional"`
	Database        *hcl.Attribute   `hcl:"database,optional"`
	User            *hcl.Attribute   `hcl:"user,optional"`
	Password        *hcl.Attribute   `hcl:"password,optional"`
	MaxConnections  *hcl.Attribute   `hcl:"max_connections,optional"`
	MinConnections  *hcl.Attribute   `hcl:"min_connections,optional"`
	ConnMaxLifetime *hcl.Attribute   `hcl:"conn_max_lifetime,optional"`
	TLS             []clientTLSBlock `hcl:"tls,block"`
}

type sqliteBody struct {
	Path *hcl.Attribute `hcl:"path,optional"`
}

type redisBody struct {
	Address          *hcl.Attribute   `hcl:"address,optional"`
	Addresses        *hcl.Attribute   `hcl:"addresses,optional"`
	Host             *hcl.Attribute   `hcl:"host,optional"`
	Port             *hcl.Attribute   `hcl:"port,optional"`
	MasterName       *hcl.Attribute   `hcl:"master_name,optional"`
	Username         *hcl.Attribute   `hcl:"username,optional"`
	Password         *hcl.Attribute   `hcl:"password,optional"`
	WaitReplicas     *hcl.Attribute   `hcl:"wait_replicas,optional"`
	SentinelPassword *hcl.Attribute   `hcl:"sentinel_password,optional"`
	DB               *hcl.Attribute   `hcl:"db,optional"`
	MaxRetries       *hcl.Attribute   `hcl:"max_retries,optional"`
	PoolSize         *hcl.Attribute   `hcl:"pool_size,optional"`
	MinIdleConns     *hcl.Attribute   `hcl:"min_idle_conns,optional"`
	TTL              *hcl.Attribute   `hcl:"ttl,optional"`
	TLS              []clientTLSBlock `hcl:"tls,block"`
}

type postgresClaimsBody struct {
	URL            *hcl.Attribute   `hcl:"url,optional"`
	MaxConnections *hcl.Attribute   `hcl:"max_connections,optional"`
	TTL            *hcl.Attribute   `hcl:"ttl,optional"`
	TLS            []clientTLSBlock `hcl:"tls,block"`
}

type badgerBody struct {
	Path *hcl.Attribute `hcl:"path,optional"`
	TTL  *hcl.Attribute `hcl:"ttl,optional"`
}

type storageNodeBlock struct {
	Range        hcl.Range      `hcl:",def_range"`
	ID           string         `hcl:"id,label"`
	LabelRange   hcl.Range      `hcl:"id,label_range"`
	Address      *hcl.Attribute `hcl:"address,optional"`
	VirtualNodes *hcl.Attribute `hcl:"virtual_nodes,optional"`
}

type storageBlock struct {
	Range    hcl.Range        `hcl:",def_range"`
	Embedded *hcl.Attribute   `hcl:"embedded,optional"`
	TLS      []clientTLSBlock `hcl:"tls,block"`
}

type clientTLSBlock struct {
	Range    hcl.Range      `hcl:",def_range"`
	CAFile   *hcl.Attribute `hcl:"ca_file,optional"`
	CertFile *hcl.Attribute `hcl:"cert_file,optional"`
	KeyFile  *hcl.Attribute `hcl:"key_file,optional"`
}

type hashRingBlock struct {
	Range          hcl.Range      `hcl:",def_range"`
	VirtualNodes   *hcl.Attribute `hcl:"virtual_nodes,optional"`
	UpdateInterval *hcl.Attribute `hcl:"update_interval,optional"`
}

type consistencyBlock struct {
	Range        hcl.Range      `hcl:",def_range"`
	DefaultLevel *hcl.Attribute `hcl:"default_level,optional"`
	WriteTimeout *hcl.Attribute `hcl:"write_timeout,optional"`
	ReadTimeout  *hcl.Attribute `hcl:"read_timeout,optional"`
	RepairAsync  *hcl.Attribute `hcl:"repair_async,optional"`
}

type cacheBlock struct {
	Range           hcl.Range      `hcl:",def_range"`
	TenantConfigTTL *hcl.Attribute `hcl:"tenant_config_ttl,optional"`
	MaxSize         *hcl.Attribute `hcl:"max_size,optional"`
}

type maintenanceBlock struct {
	Range          hcl.Range      `hcl:",def_range"`
	BytesPerSecond *hcl.Attribute `hcl:"bytes_per_second,optional"`
	CleanupDelay   *hcl.Attribute `hcl:"cleanup_delay,optional"`
	RepairInterval *hcl.Attribute `hcl:"repair_interval,optional"`
	HintLifetime   *hcl.Attribute `hcl:"hint_lifetime,optional"`
	TombstoneGrace *hcl.Attribute `hcl:"tombstone_grace,optional"`
}

type authBlock struct {
	Range hcl.Range  `hcl:",def_range"`
	JWT   []jwtBlock `hcl:"jwt,block"`
}

type jwtBlock struct {
	Range       hcl.Range      `hcl:",def_range"`
	Issuer      *hcl.Attribute `hcl:"issuer,optional"`
	Audience    *hcl.Attribute `hcl:"audience,optional"`
	Leeway      *hcl.Attribute `hcl:"leeway,optional"`
	Keys        []jwtKeyBlock  `hcl:"key,block"`
	JWKSFile    *hcl.Attribute `hcl:"jwks_file,optional"`
	TenantClaim *hcl.Attribute `hcl:"tenant_claim,optional"`
	RolesClaim  *hcl.Attribute `hcl:"roles_claim,optional"`
}

type jwtKeyBlock struct {
	Range      hcl.Range      `hcl:",def_range"`
	ID         string         `hcl:"kid,label"`
	LabelRange hcl.Range      `hcl:"kid,label_range"`
	Algorithm  *hcl.Attribute `hcl:"algorithm,optional"`
	File       *hcl.Attribute `hcl:"file,optional"`
}

type limitsBlock struct {
	Range         hcl.Range           `hcl:",def_range"`
	MaxValueBytes *hcl.Attribute      `hcl:"max_value_bytes,optional"`
	MaxInFlight   *hcl.Attribute      `hcl:"max_in_flight,optional"`
	MaxHeldBytes  *hcl.Attribute      `hcl:"max_held_bytes,optional"`
	Tenant        []tenantLimitsBlock `hcl:"tenant,block"`
}

type tenantLimitsBlock struct {
	Range               hcl.Range      `hcl:",def_range"`
	OperationsPerSecond *hcl.Attribute `hcl:"operations_per_second,optional"`
	BytesPerSecond      *hcl.Attribute `hcl:"bytes_per_second,optional"`
	Concurrency         *hcl.Attribute `hcl:"concurrency,optional"`
}

type auditBlock struct {
	Range hcl.Range      `hcl:",def_range"`
	File  *hcl.Attribute `hcl:"file,optional"`
}

type metricsBlock struct {
	Range   hcl.Range      `hcl:",def_range"`
	Enabled *hcl.Attribute `hcl:"enabled,optional"`
	Listen  *hcl.Attribute `hcl:"listen,optional"`
	Path    *hcl.Attribute `hcl:"path,optional"`
	PProf   *hcl.Attribute `hcl:"pprof,optional"`
}

type tracingBlock struct {
	Range       hcl.Range        `hcl:",def_range"`
	Endpoint    *hcl.Attribute   `hcl:"endpoint,optional"`
	Insecure    *hcl.Attribute   `hcl:"insecure,optional"`
	Headers     *hcl.Attribute   `hcl:"headers,optional"`
	SampleRatio *hcl.Attribute   `hcl:"sample_ratio,optional"`
	RecordKeys  *hcl.Attribute   `hcl:"record_keys,optional"`
	QueueSize   *hcl.Attribute   `hcl:"queue_size,optional"`
	Timeout     *hcl.Attribute   `hcl:"timeout,optional"`
	TLS         []clientTLSBlock `hcl:"tls,block"`
}

type loggingBlock struct {
	Range  hcl.Range      `hcl:",def_range"`
	Level  *hcl.Attribute `hcl:"level,optional"`
	Format *hcl.Attribute `hcl:"format,optional"`
}
