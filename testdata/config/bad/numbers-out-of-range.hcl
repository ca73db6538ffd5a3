metadata "postgres" {
  port            = 70000 # ERROR: Port must be between 1 and 65535
  max_connections = 5
  min_connections = 6 # ERROR: Min connections above max connections
}
idempotency "redis" {
  db             = -1 # ERROR: Db must be between 0 and 1048576
  pool_size      = 5 # ERROR: Min idle conns above pool size
}
hash_ring {
  virtual_nodes = 0 # ERROR: Virtual nodes must be between 1 and 4096
}
storage {
  embedded = 99999999999999999999 # ERROR: Embedded must be between 0 and 64
}
