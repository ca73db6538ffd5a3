-- Versions that storage nodes have missed, at most one for each node and key.
-- Their values are apart, so that what is read of every hint lies close together.
CREATE TABLE hints (
    node        TEXT    NOT NULL,
    token       INTEGER NOT NULL, -- with its highest bit flipped, so that signed order is the tokens' order
    tenant      TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    coordinator TEXT    NOT NULL, -- who stored it
    stored      INTEGER NOT NULL, -- Unix nanoseconds
    since       INTEGER NOT NULL, -- Unix nanoseconds
    size        INTEGER NOT NULL, -- as coord.Hint.Size counts
    head        BLOB    NOT NULL, -- of the version, in coord's binary form
    value       INTEGER NOT NULL, -- id in hint_values, of this hint alone
    PRIMARY KEY (node, token, tenant, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX hints_by_age ON hints (node, since);

CREATE TABLE hint_values (
    id    INTEGER PRIMARY KEY,
    value BLOB    NOT NULL
) STRICT;

-- What nodes are owed: count and size of their hints above, changed in the same
-- transactions, and a bit for each range of which hints were lost. A node that
-- is owed nothing has no row.
CREATE TABLE debts (
    node   TEXT    PRIMARY KEY,
    hints  INTEGER NOT NULL CHECK (hints >= 0),
    size   INTEGER NOT NULL CHECK (size >= 0),
    ranges BLOB    NOT NULL CHECK (length(ranges) = 512)
) STRICT, WITHOUT ROWID;
