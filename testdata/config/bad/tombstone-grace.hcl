metadata "sqlite" {}
idempotency "badger" {
  ttl = "48h"
}
maintenance {
  tombstone_grace = "24h" # ERROR: Tombstones would be forgotten too soon
}
