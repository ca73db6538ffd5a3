-- A tenant's own limits: 0 is what the configuration says, -1 none.
ALTER TABLE tenants
    ADD COLUMN operations_per_second BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN bytes_per_second      BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN concurrency           BIGINT NOT NULL DEFAULT 0;
