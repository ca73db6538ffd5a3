metadata "sqlite" {}
idempotency "badger" {}
server {
  tls { # ERROR: server.tls is not supported by this release yet
    cert_file = "server.pem" # ERROR: Certificate without key
  }
}
storage {
  tls { # ERROR: storage.tls is not supported by this release yet
    key_file = "client-key.pem" # ERROR: Key without certificate
  }
}
