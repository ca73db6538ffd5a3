-- Keyed requests. A row whose end has come stands for nothing.
CREATE TABLE claims (
    id          BYTEA       PRIMARY KEY, -- SHA-256 over tenant, key and idempotency key
    state       SMALLINT    NOT NULL,    -- 1 reserved, 2 minted, 3 done
    level       SMALLINT    NOT NULL,    -- of done: 1 one, 2 quorum, 3 all; else 0
    fingerprint BYTEA       NOT NULL,
    attempt     BYTEA       NOT NULL,
    version     BYTEA,                   -- timestamp and writer of minted
    minted      BYTEA,                   -- the version's head, in coord's binary form
    ends        TIMESTAMPTZ NOT NULL
);

CREATE INDEX claims_by_end ON claims (ends);
