-- Marks the file as PairDB metadata ("PRDB"), so that another application's
-- database is never taken for one.
PRAGMA application_id = 1347568706;

-- TEXT is compared byte by byte, which for UTF-8 is the order the interface asks for.
CREATE TABLE tenants (
    id                 TEXT    PRIMARY KEY,
    replication_factor INTEGER NOT NULL CHECK (replication_factor >= 1),
    created_at         INTEGER NOT NULL, -- Unix seconds
    updated_at         INTEGER NOT NULL  -- Unix seconds
) STRICT, WITHOUT ROWID;

CREATE INDEX tenants_by_replication_factor ON tenants (replication_factor);

-- One row: the epoch of the nodes below, changed in their transactions.
CREATE TABLE topology (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL CHECK (epoch >= 0)
) STRICT;

INSERT INTO topology (one, epoch) VALUES (1, 0);

CREATE TABLE storage_nodes (
    id            TEXT    PRIMARY KEY,
    uuid          TEXT    NOT NULL, -- empty until the node was first reached
    host          TEXT    NOT NULL,
    port          INTEGER NOT NULL,
    virtual_nodes INTEGER NOT NULL,
    status        TEXT    NOT NULL CHECK (status IN ('active', 'inactive', 'draining'))
) STRICT, WITHOUT ROWID;

-- Every id that ever was in storage_nodes; nothing leaves this table.
CREATE TABLE known_nodes (
    id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE identities (
    node_id     TEXT    PRIMARY KEY,
    incarnation INTEGER NOT NULL CHECK (incarnation >= 1)
) STRICT, WITHOUT ROWID;
