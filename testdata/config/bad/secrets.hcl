metadata "postgres" {
  password = swordfish # ERROR: Variables not allowed
  pasword  = "swordfish" # ERROR: Unsupported argument
}
idempotency "redis" {
  password = 12345678 # ERROR: Wrong type
}
