metadata "postgres" {
  url  = "postgres://coordinator@localhost/pairdb"
  host = "localhost" # ERROR: Address given twice
}
idempotency "redis" {
  address = "localhost:6379"
  host    = "localhost" # ERROR: Address given twice
}
