metadata "postgres" {
  url         = "postgres://u:secret@database:port/pairdb" # ERROR: Invalid url
  session_url = "postgres://[::1]:5432,database:70000/pairdb" # ERROR: Invalid session url
}

idempotency "postgres" {
  url = "postgresql://u:secret@[::1],a:5432,b/pairdb?sslmode=disable"
}
