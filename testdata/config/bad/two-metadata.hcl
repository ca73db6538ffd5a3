metadata "postgres" {}
metadata "sqlite" {} # ERROR: Duplicate metadata block
idempotency "badger" {}
