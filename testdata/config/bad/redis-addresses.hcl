metadata "sqlite" {}
idempotency "redis" {
  addresses = ["10.0.0.31"] # ERROR: Invalid addresses
}
