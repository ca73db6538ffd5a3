metadata "sqlite" {}
idempotency "badger" {}
consistency {
  default_level = "most" # ERROR: Invalid default level
}
logging {
  level  = "loud" # ERROR: Invalid level
  format = "xml" # ERROR: Invalid format
}
