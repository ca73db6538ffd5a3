metadata "sqlite" {}
idempotency "badger" {}
server {
  listen "0.0.0.0:50051" # ERROR: Invalid block definition
}
