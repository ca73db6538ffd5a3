metadata "postgres" {
  url = "postgres://coordinator@database:5432/pairdb"
}
idempotency "postgres" {}
