metadata "sqlite" {
  host = "localhost" # ERROR: Unsupported argument
}
idempotency "badger" {
  pool_size = 3 # ERROR: Unsupported argument
}
