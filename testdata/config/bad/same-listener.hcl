metadata "sqlite" {}
idempotency "badger" {}
server {
  listen = "127.0.0.1:9090"
}
metrics {
  listen = "127.0.0.1:9090" # ERROR: Address used twice
}
