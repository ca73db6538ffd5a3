metadata "sqlite" {}
idempotency "badger" {}
server {
  listen = "127.0.0.1:1"
}
server { # ERROR: Duplicate server block
  max_connections = 0 # ERROR: Max connections must be between 1 and 1000000
}
