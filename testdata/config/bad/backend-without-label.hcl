metadata { # ERROR: Missing backend for metadata
  path = "/data/metadata.db"
}
idempotency "badger" {}
