metadata "sqlite" {}
idempotency "badger" {}
storage_node "storage-1" {
  address = "10.0.0.1:7000"
}
storage_node "storage-1" { # ERROR: Duplicate storage node
  address = "10.0.0.1:7000" # ERROR: Duplicate storage node address
}
storage_node "storage-3" { # ERROR: Missing address
  virtual_nodes = 5000 # ERROR: Virtual nodes must be between 1 and 4096
}
storage_node "storage 4" { # ERROR: Invalid storage node id
  address = "10.0.0.4:7000"
}
