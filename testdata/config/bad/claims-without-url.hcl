metadata "sqlite" {}
idempotency "postgres" {} # ERROR: Missing url
