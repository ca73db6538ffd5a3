# Sentinels over TLS, a pooler in front of Postgres.
metadata "postgres" {
  url         = "postgres://coordinator@pooler:6432/pairdb"
  session_url = "postgres://coordinator@database:5432/pairdb"
}
idempotency "redis" {
  addresses         = ["10.0.0.31:26379", "10.0.0.32:26379"]
  master_name       = "pairdb"
  sentinel_password = "secret"
  tls {
    ca_file = "/etc/pairdb/redis-ca.pem"
  }
}
