metadata "sqlite" {}
idempotency "badger" {}
servers { # ERROR: Unsupported block type
  listen = "0.0.0.0:50051"
}
