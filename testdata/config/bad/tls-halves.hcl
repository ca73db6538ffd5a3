metadata "sqlite" {}
idempotency "badger" {}
server {
  tls {
    cert_file = "server.pem" # ERROR: Certificate without key
  }
}
storage {
  tls {
    key_file = "client-key.pem" # ERROR: Key without certificate
  }
}
server { # ERROR: Duplicate server block
  tls {
    cert_file    = "server.pem"
    key_file     = "server-key.pem"
    client_names = ["app"] # ERROR: Names without authority
  }
}
