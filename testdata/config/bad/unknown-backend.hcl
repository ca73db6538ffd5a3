metadata "mysql" { # ERROR: Unknown metadata backend
  host = "localhost"
}
idempotency "memcached" {} # ERROR: Unknown idempotency backend
