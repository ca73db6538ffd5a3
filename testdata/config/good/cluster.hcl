# Every kind of value, away from its default.
node_id  = "coordinator-7"
data_dir = "/srv/pairdb"

server {
  listen           = "[::]:6000"
  max_connections  = 2 * 1000
  read_timeout     = "250ms"
  write_timeout    = "1m30s"
  shutdown_timeout = "0s"
}

metadata "postgres" {
  url               = "postgresql://alice:s3cret@db-1:5433/meta?sslmode=require"
  max_connections   = 5
  min_connections   = 5
  conn_max_lifetime = "1h"
}

idempotency "redis" {
  host           = "cache"
  port           = 6380
  password       = "hunter2"
  db             = 3
  max_retries    = 0
  pool_size      = 20
  min_idle_conns = 0
  ttl            = "48h"
}

storage_node "storage-1" { address = "10.0.0.1:7000" }
storage_node "storage-2" {
  address       = "storage-2.internal:7000"
  virtual_nodes = 300
}

hash_ring {
  virtual_nodes   = 64
  update_interval = "5s"
}

consistency {
  default_level = "all"
  write_timeout = "1s"
  read_timeout  = "500ms"
  repair_async  = false
}

maintenance {
  bytes_per_second = 1048576
  cleanup_delay    = "2s"
  repair_interval  = "1h"
  hint_lifetime    = "1h"
  tombstone_grace  = "72h"
}

cache {
  tenant_config_ttl = "10s"
  max_size          = 5
}

metrics {
  enabled = false
  listen  = ":0"
  path    = "/prometheus"
  pprof   = true
}

logging {
  level  = "warn"
  format = "text"
}
