metadata "sqlite" {}
idempotency "badger" {}
tracing {
  endpoint     = "http://collector:4317" # ERROR: Invalid endpoint
  sample_ratio = 1.5 # ERROR: Sample ratio must be between 0 and 1
  queue_size   = 0 # ERROR: Queue size must be between 1 and 1000000
  timeout      = 5 # ERROR: Duration needs a unit
  headers      = { "X Api" = "swordfish" } # ERROR: Invalid header name
  record_keys  = "yes" # ERROR: Wrong type
  insecure     = true
  tls {} # ERROR: TLS of a plain text connection
}
tracing { # ERROR: Duplicate tracing block
  headers  = ["swordfish"] # ERROR: Wrong type
  endpoit  = "a:1" # ERROR: Unsupported argument
}
