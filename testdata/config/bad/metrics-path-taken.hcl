metadata "sqlite" {}
idempotency "badger" {}
metrics {
  path = "/health/live" # ERROR: Invalid path
}
