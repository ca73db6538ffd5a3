metadata "sqlite" {}
idempotency "badger" {}
data_dir = "${HOME}/pairdb" # ERROR: Variables not allowed
