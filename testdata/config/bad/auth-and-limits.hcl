metadata "sqlite" {}
idempotency "badger" {}
auth {
  jwt { # ERROR: Missing keys
    leeway = "2 minutes" # ERROR: Not a duration
  }
}
limits {
  max_value_bytes = 20000000 # ERROR: Max value bytes must be between 1 and 10485760
  tenant {
    operations_per_second = -5 # ERROR: Operations per second must be between 0 and 1000000000
  }
}
