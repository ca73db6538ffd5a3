-- Versions that storage nodes have missed, at most one for each node and key.
CREATE TABLE hints (
    node        TEXT COLLATE "C" NOT NULL,
    token       BIGINT           NOT NULL, -- with its highest bit flipped, so that signed order is the tokens' order
    tenant      TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    coordinator TEXT COLLATE "C" NOT NULL, -- who stored it
    stored      BIGINT           NOT NULL, -- Unix nanoseconds, by the database's clock
    since       BIGINT           NOT NULL, -- Unix nanoseconds
    size        BIGINT           NOT NULL, -- as coord.Hint.Size counts
    head        BYTEA            NOT NULL, -- of the version, in coord's binary form
    value       BYTEA            NOT NULL,
    PRIMARY KEY (node, token, tenant, key)
);

CREATE INDEX hints_by_age ON hints (node, since);

-- What nodes are owed: count and size of their hints above, changed in the same
-- transactions, and a bit for each range of which hints were lost. A node that
-- is owed nothing has no row.
CREATE TABLE debts (
    node   TEXT COLLATE "C" PRIMARY KEY,
    hints  BIGINT NOT NULL CHECK (hints >= 0),
    size   BIGINT NOT NULL CHECK (size >= 0),
    ranges BYTEA  NOT NULL CHECK (octet_length(ranges) = 512)
);
