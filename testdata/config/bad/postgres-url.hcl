metadata "postgres" {
  url = "host=localhost user=coordinator password=swordfish" # ERROR: Invalid url
}
idempotency "badger" {}
