# Everything else has its default: see coordinator.hcl at the top of the
# repository. Passwords come from the Secret, by environment variables.

# Pods come and go: each takes the lowest free coordinator-N.
node_id  = "auto"
data_dir = "/var/lib/pairdb"

server {
  listen = "0.0.0.0:50051"

  # Shorter than the pod's terminationGracePeriodSeconds.
  shutdown_timeout = "30s"
}

metadata "postgres" {
  host     = "postgres"
  database = "pairdb_metadata"
  user     = "coordinator"

  # Of each coordinator; the database must allow as many times the replicas of
  # the HorizontalPodAutoscaler, and one more for each.
  max_connections = 20
  min_connections = 2
}

idempotency "redis" {
  address = "redis:6379"
}

metrics {
  listen = "0.0.0.0:9090"
}
