node_id = "" # ERROR: Invalid node id
metadata "sqlite" {}
idempotency "badger" {}
server {
  listen = "" # ERROR: Invalid listen
}
metrics {
  listen = "localhost" # ERROR: Invalid listen
  path = "metrics" # ERROR: Invalid path
}
storage_node "storage-1" {
  address = ":7000" # ERROR: Invalid address
}
storage_node "storage-2" {
  address = "10.0.0.2:0" # ERROR: Invalid address
}
storage_node "storage-3" {
  address = "10.0.0.3:http" # ERROR: Invalid address
}
