# One coordinator that keeps everything on its own disk.
node_id  = "solo"
data_dir = "/data"

metadata "sqlite" {}
idempotency "badger" { ttl = "1h" }

storage { embedded = 3 }
