# ERROR: Missing metadata block | Missing idempotency block
node_id = "coordinator-1"
