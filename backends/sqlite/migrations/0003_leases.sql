CREATE TABLE leases (
    name   TEXT    PRIMARY KEY,
    holder TEXT    NOT NULL,
    ends   INTEGER NOT NULL -- Unix nanoseconds
) STRICT, WITHOUT ROWID;
