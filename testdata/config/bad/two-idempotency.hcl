metadata "sqlite" {}
idempotency "redis" {}
idempotency "badger" {} # ERROR: Duplicate idempotency block
