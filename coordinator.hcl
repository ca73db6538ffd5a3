# PairDB coordinator: every setting, with its unit and its default. What is
# commented out with an example value is off, or has no default.
#
#   coordinator validate coordinator.hcl     check a file
#   coordinator -config coordinator.hcl      run with it
#
# Flags win over the environment, the environment over this file, this file over
# the defaults. Durations are strings with a unit: "250ms", "2s", "5m", "24h".
# An empty environment variable counts as unset.

# The name under which this coordinator writes into vector clocks. Each running
# coordinator needs its own; a second one with the same name is refused at start.
# Environment: COORDINATOR_NODE_ID. Flag: -node-id.
node_id = "coordinator-1"

# Where embedded stores keep their files: SQLite, Badger, embedded storage nodes.
data_dir = "/var/lib/pairdb"

# The gRPC API.
server {
  # HOST:PORT. Port 0 takes a free port. Flag: -listen.
  listen = "0.0.0.0:50051"

  # Client connections; those beyond are closed and counted. 1 to 1000000.
  max_connections = 1000

  # The longest that a whole read may take, and a whole write or delete.
  # A client's own shorter deadline counts. 1ms to 1h.
  read_timeout  = "10s"
  write_timeout = "10s"

  # How long requests in flight may go on after SIGTERM. 0s to 1h.
  shutdown_timeout = "30s"

  # TLS towards clients, 1.2 or newer. PEM files; like all that hold certificates
  # or keys, they are read again when they change and on SIGHUP. With
  # client_ca_file every client needs a certificate from it; with client_names,
  # one for any of these DNS names. Default: plain text.
  # tls {
  #   cert_file      = "/etc/pairdb/server.pem"
  #   key_file       = "/etc/pairdb/server-key.pem"
  #   client_ca_file = "/etc/pairdb/clients-ca.pem"
  #   client_names   = ["app.example.com", "gateway.example.com"]
  # }
}

# Where tenants and storage nodes are registered: "postgres", shared by any
# number of coordinators, or "sqlite", for one. There is no default; exactly one
# block must stand, except with -dev.
metadata "postgres" {
  # Either one URL ...
  # url = "postgres://coordinator@localhost:5432/pairdb_metadata?sslmode=verify-full"

  # ... or its parts. A host that begins with / is the directory of a Unix socket.
  # Environment: DATABASE_HOST, DATABASE_PORT, DATABASE_NAME, DATABASE_USER,
  # DATABASE_PASSWORD; they override the parts of a url, too.
  host     = "localhost"
  port     = 5432
  database = "pairdb_metadata"
  user     = "coordinator"
  password = "" # best left to DATABASE_PASSWORD

  # Where the database is reached past a pooler that does not keep sessions
  # (PgBouncer in transaction mode): node ids are held and changes heard there.
  # Default: the same as above.
  # session_url = "postgres://coordinator@localhost:5433/pairdb_metadata"

  # The pool: connections at most (1 to 100000), kept open at least (0 to
  # 100000), and the age at which one is replaced (1s to 24h).
  max_connections   = 50
  min_connections   = 10
  conn_max_lifetime = "30m"

  # TLS; the same attributes as in storage. The server's certificate must be for
  # its host. Default: what the url's sslmode says, else TLS where the server
  # offers it, without a check of its certificate.
  # tls {
  #   ca_file = "/etc/pairdb/postgres-ca.pem"
  # }
}

# metadata "sqlite" {
#   # The database file. Default: metadata.db in data_dir.
#   path = "/var/lib/pairdb/metadata.db"
# }

# Where requests with an idempotency key are remembered: "redis" or "postgres",
# shared by any number of coordinators, or "badger", for one. There is no
# default; exactly one block must stand, except with -dev. A failover of Redis
# may forget the claims of the last moments; "postgres" forgets none.
idempotency "redis" {
  # HOST:PORT, or host and port apart. Environment: REDIS_HOST, REDIS_PORT.
  address = "localhost:6379"
  # host  = "localhost"
  # port  = 6379

  # Several servers: those of a cluster, or, with master_name, sentinels.
  # addresses         = ["10.0.0.31:26379", "10.0.0.32:26379", "10.0.0.33:26379"]
  # master_name       = "pairdb"
  # sentinel_password = "" # of the sentinels themselves

  # Environment: REDIS_PASSWORD. Default username: Redis's own default user.
  # username = "coordinator"
  password = ""

  # How many of Redis's replicas must have a claim before it counts, 0 to 16:
  # with 1 or more, a failover to one of those forgets nothing. Not in a cluster.
  wait_replicas = 0

  # The database's number. 0 to 1048576.
  db = 0

  # Retries of one command, 0 to 100; connections at most, 1 to 100000;
  # connections kept open at least, 0 to 100000.
  max_retries    = 3
  pool_size      = 100
  min_idle_conns = 10

  # How long a keyed request is remembered. 1s to 720h.
  ttl = "24h"

  # TLS towards Redis; the same attributes as in storage. Default: plain text.
  # tls {
  #   ca_file = "/etc/pairdb/redis-ca.pem"
  # }
}

# idempotency "postgres" {
#   # Default: the database of metadata "postgres".
#   url             = "postgres://coordinator@localhost:5432/pairdb_claims"
#   max_connections = 20
#   ttl             = "24h"
#   # TLS of url, as in metadata "postgres".
#   tls {
#     ca_file = "/etc/pairdb/postgres-ca.pem"
#   }
# }

# idempotency "badger" {
#   # The directory. Default: idempotency in data_dir.
#   path = "/var/lib/pairdb/idempotency"
#   ttl  = "24h"
# }

# Storage nodes to register at start, one block each, labelled with the node's
# id. A node that was known before is left as it is; one that was removed stays
# removed, with a warning. Nodes may also join by themselves (coordinator storage
# -join) or be added with: coordinator node add. Default: none.
# storage_node "storage-1" {
#   # HOST:PORT. No default.
#   address = "10.0.0.11:50061"
#   # The node's weight, 1 to 4096. Default: hash_ring.virtual_nodes.
#   virtual_nodes = 150
# }

# How storage nodes are reached.
storage {
  # Storage nodes inside this process, named storage-1 and on. 0 to 64. With
  # -dev the default is 3.
  embedded = 0

  # TLS towards storage nodes, whose certificates must be for the hosts that they
  # advertise. PEM files. cert_file and key_file, together, are this
  # coordinator's own certificate: storage nodes that ask for one (coordinator
  # storage -tls-client-ca) want it to be for the DNS name "coordinator". Default:
  # plain text.
  # tls {
  #   ca_file   = "/etc/pairdb/storage-ca.pem"
  #   cert_file = "/etc/pairdb/coordinator.pem"
  #   key_file  = "/etc/pairdb/coordinator-key.pem"
  # }
}

# How keys are spread over storage nodes.
hash_ring {
  # Virtual nodes of a storage node that says nothing else. 1 to 4096.
  virtual_nodes = 150

  # How often the metadata store is asked for a changed ring, should the news
  # not have come otherwise. 100ms to 1h.
  update_interval = "30s"
}

# What coordinators do in the background. One of them does it for all.
maintenance {
  # Bytes a second of values that may be copied when nodes come or go, or when
  # replicas are made equal. 1024 or more.
  bytes_per_second = 67108864

  # For how long after such a change nodes keep what they do not own any more,
  # unless it is in the way of the next one. 1s to 24h.
  cleanup_delay = "1m"

  # All replicas are compared once in about so long, again and again. 1s to 168h.
  repair_interval = "1m"

  # For how long a version that a storage node has missed is kept for it. After
  # that, comparing replicas brings it. 1s to 720h.
  hint_lifetime = "24h"

  # For how long all replicas must have held the mark of a deletion before they
  # forget it. Default, and the least: the longer of hint_lifetime and the
  # idempotency ttl, and consistency.write_timeout and a minute.
  # tombstone_grace = "25h"
}

# How many replicas must answer, and how fast.
consistency {
  # For requests that do not say: "one", "quorum" (a majority of the tenant's
  # replication factor) or "all".
  default_level = "quorum"

  # The longest that replicas may take, within server.write_timeout and
  # server.read_timeout. 1ms to 1h.
  write_timeout = "5s"
  read_timeout  = "3s"

  # Whether a read answers before all stale replicas are repaired. The write-back
  # to a majority, which makes reads atomic, is always waited for.
  repair_async = true
}

# Tenants held in memory.
cache {
  # How long a tenant is used before metadata is asked again, 1ms to 24h. While
  # metadata does not answer, longer.
  tenant_config_ttl = "5m"

  # Tenants at most, 1 to 1000000000.
  max_size = 10000
}

# Who may call. With it every RPC of the API needs the metadata
# "authorization: Bearer TOKEN", with a JSON Web Token whose claims name the
# tenants that the caller may reach, and its roles: "admin" administers tenants and
# storage nodes. Default: no authentication; -dev then refuses to listen beyond
# loopback, for clients or for the console, without the flag -allow-remote.
# auth {
#   jwt {
#     # Claims that a token must have. Default: not checked.
#     issuer   = "https://login.example.com"
#     audience = "pairdb"
#
#     # Clock difference to put up with. 0s to 1h.
#     leeway = "30s"
#
#     # Verification keys: one block each, labelled with the key id, which tokens
#     # name; algorithm, which alone tokens of the key may use, is one of HS, RS, PS
#     # and ES with 256, 384 or 512, or EdDSA; file holds PEM (a public key or a
#     # certificate) or, for HS, the secret's bytes, at least 16. And, or instead, a
#     # JSON Web Key Set. To rotate, have the old and the new key side by side. The
#     # files are read again when they change and on SIGHUP; tokens of a key that
#     # is gone end at once.
#     key "2026-01" {
#       algorithm = "EdDSA"
#       file      = "/etc/pairdb/jwt-2026-01.pem"
#     }
#     jwks_file = "/etc/pairdb/jwks.json"
#
#     # The claims that name the caller's tenants and roles: a string or a list of
#     # them each. The tenant "*" stands for all.
#     tenant_claim = "tenant_id"
#     roles_claim  = "roles"
#   }
# }

# What is refused rather than served badly. Each coordinator counts by itself.
limits {
  # Bytes of one value, 1 to 10485760 (10 MiB).
  max_value_bytes = 10485760

  # Operations under way at once, 1 to 1000000000. While even the fastest take far
  # longer than without load, fewer are let in: beyond that they would be late
  # anyway. Those beyond are refused, of the tenants with the most under way first.
  max_in_flight = 10000

  # Bytes of values in memory: half of it for those that came in, half for those
  # that wait to be read by their clients. Those beyond are refused. 1048576
  # (1 MiB) to 1125899906842624.
  max_held_bytes = 536870912

  # Of each tenant by itself, unless it has limits of its own (coordinator tenant
  # set-limits); 0 means no limit. A tenant may use what a second gives it at once.
  # Operations of a batch or pipeline count one by one, bytes are those of values
  # written and read.
  tenant {
    operations_per_second = 0
    bytes_per_second      = 0
    concurrency           = 0 # operations under way at once
  }
}

# Where operations of administrators are written, a JSON object a line: when, who,
# what, on what, and with which outcome. Default: the log.
# audit {
#   file = "/var/log/pairdb/audit.jsonl"
# }

# Everything over HTTP: health, metrics, the console.
metrics {
  # false hides the metrics path, and nothing else.
  enabled = true

  # HOST:PORT. Port 0 takes a free port. Flag: -ops-listen.
  listen = "0.0.0.0:9090"

  path = "/metrics"

  # Whether /debug/pprof is served: profiles of this process, for whoever can
  # reach the address.
  pprof = false
}

logging {
  # "trace", "debug", "info", "warn" or "error". Environment: LOG_LEVEL.
  # Flag: -log-level.
  level = "info"

  # "json" or "text". With -dev the default is "text". Flag: -log-format.
  format = "json"
}

# Requests as OpenTelemetry traces: each RPC, each operation of a pipeline or
# batch, each call on a storage node, and what nodes that are traced, too
# (coordinator storage -trace-endpoint) did for it. Default: none; without this
# block nothing is recorded, whatever the environment says.
# tracing {
#   # HOST:PORT of a collector that takes OTLP over gRPC. Environment:
#   # OTEL_EXPORTER_OTLP_ENDPOINT, there also a URL: http:// means insecure.
#   endpoint = "localhost:4317"
#
#   # true: plain text instead of TLS.
#   insecure = false
#
#   # Sent with each message, for collectors that want a key. Environment:
#   # OTEL_EXPORTER_OTLP_HEADERS, instead of these. Default: none.
#   headers = { "x-api-key" = "" }
#
#   # The part of the requests that is recorded, 0 to 1. A request that comes with
#   # a W3C trace context (traceparent) is recorded if that says so.
#   sample_ratio = 0.01
#
#   # Whether spans hold keys. Traces are read by more people and kept elsewhere
#   # than the data, and deleting a key does not delete it there.
#   record_keys = false
#
#   # Spans that may wait for the collector, 1 to 1000000, of about 1 KiB each.
#   # Those beyond are dropped and counted; requests never wait.
#   queue_size = 4096
#
#   # How long the collector may take to accept a message. 1ms to 1h.
#   timeout = "10s"
#
#   # The same attributes as in storage. Default: the system's authorities.
#   tls {
#     ca_file = "/etc/pairdb/collector-ca.pem"
#   }
# }
