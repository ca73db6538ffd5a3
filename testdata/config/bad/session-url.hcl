metadata "postgres" {
  session_url = "database:5432" # ERROR: Invalid session url
}
idempotency "postgres" {
  url = "mysql://x" # ERROR: Invalid url
}
