-- A tenant's own limits: 0 is what the configuration says, -1 none.
ALTER TABLE tenants ADD COLUMN operations_per_second INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN bytes_per_second      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN concurrency           INTEGER NOT NULL DEFAULT 0;
