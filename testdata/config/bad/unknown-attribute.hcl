metadata "sqlite" {}
idempotency "badger" {}
server {
  listne = "0.0.0.0:50051" # ERROR: Unsupported argument
}
