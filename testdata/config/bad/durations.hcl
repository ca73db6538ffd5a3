metadata "sqlite" {}
idempotency "badger" {}
server {
  read_timeout = 10 # ERROR: Duration needs a unit
  write_timeout = "10" # ERROR: Duration needs a unit
  shutdown_timeout = "half a minute" # ERROR: Not a duration
}
consistency {
  read_timeout = "-1s" # ERROR: Read timeout must be between 1ms and 1h
  write_timeout = "2h" # ERROR: Write timeout must be between 1ms and 1h
}
hash_ring {
  update_interval = "" # ERROR: Not a duration
}
