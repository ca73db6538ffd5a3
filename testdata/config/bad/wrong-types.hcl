node_id = 7 # ERROR: Wrong type
data_dir = ["/data"] # ERROR: Wrong type
metadata "sqlite" {}
idempotency "badger" {}
server {
  max_connections = "many" # ERROR: Wrong type
  listen = 50051 # ERROR: Wrong type
}
hash_ring {
  virtual_nodes = 1.5 # ERROR: Wrong type
}
consistency {
  repair_async = "yes" # ERROR: Wrong type
  write_timeout = true # ERROR: Wrong type
}
