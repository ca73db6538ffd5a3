metadata "sqlite" {}
idempotency "redis" {
  addresses = "10.0.0.31:6379" # ERROR: Wrong type
}
