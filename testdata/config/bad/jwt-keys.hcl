metadata "sqlite" {}
idempotency "badger" {}
auth {
  jwt {
    key "a" { # ERROR: Incomplete key
      algorithm = "none" # ERROR: Invalid algorithm
    }
    key "a" { # ERROR: Duplicate key
      algorithm = "EdDSA"
      file      = "a.pem"
    }
  }
}
