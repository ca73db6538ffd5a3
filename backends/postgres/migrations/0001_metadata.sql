-- One row: which migrations were applied, and which store this is, wherever it
-- is reached.
CREATE TABLE pairdb_schema (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL,
    store   TEXT    NOT NULL
);

INSERT INTO pairdb_schema (one, version, store) VALUES (1, 0, gen_random_uuid()::text);

-- Ids are compared byte by byte, whatever the database's order of text.
CREATE TABLE tenants (
    id                 TEXT COLLATE "C" PRIMARY KEY,
    replication_factor INTEGER NOT NULL CHECK (replication_factor >= 1),
    created_at         BIGINT  NOT NULL, -- Unix seconds
    updated_at         BIGINT  NOT NULL  -- Unix seconds
);

CREATE INDEX tenants_by_replication_factor ON tenants (replication_factor);

-- One row: the epoch of the nodes below, changed in their transactions.
CREATE TABLE topology (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    epoch BIGINT  NOT NULL CHECK (epoch >= 0)
);

INSERT INTO topology (one, epoch) VALUES (1, 0);

CREATE TABLE storage_nodes (
    id            TEXT COLLATE "C" PRIMARY KEY,
    uuid          TEXT    NOT NULL, -- empty until the node was first reached
    host          TEXT    NOT NULL,
    port          INTEGER NOT NULL,
    virtual_nodes INTEGER NOT NULL,
    status        TEXT    NOT NULL CHECK (status IN ('active', 'inactive', 'draining'))
);

-- Every id that ever was in storage_nodes; nothing leaves this table.
CREATE TABLE known_nodes (
    id TEXT COLLATE "C" PRIMARY KEY
);

-- An advisory lock holds an id; this says who had it last.
CREATE TABLE identities (
    node_id     TEXT COLLATE "C" PRIMARY KEY,
    incarnation BIGINT      NOT NULL CHECK (incarnation >= 1),
    process     INTEGER     NOT NULL,
    host        TEXT        NOT NULL,
    since       TIMESTAMPTZ NOT NULL
);

CREATE TABLE leases (
    name   TEXT COLLATE "C" PRIMARY KEY,
    holder TEXT COLLATE "C" NOT NULL,
    ends   TIMESTAMPTZ      NOT NULL
);

-- Whoever listens on the channel of the tables' schema is told of changes when
-- they are committed, those by hand included.
CREATE FUNCTION announce_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify(
        'pairdb_' || (SELECT relnamespace::text FROM pg_catalog.pg_class WHERE oid = TG_RELID),
        'tenant:' || coalesce(NEW.id, OLD.id));
    RETURN NULL;
END $$;

CREATE FUNCTION announce_topology() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify(
        'pairdb_' || (SELECT relnamespace::text FROM pg_catalog.pg_class WHERE oid = TG_RELID),
        'topology');
    RETURN NULL;
END $$;

CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON tenants
    FOR EACH ROW EXECUTE FUNCTION announce_tenant();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON storage_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION announce_topology();
CREATE TRIGGER announce AFTER UPDATE ON topology
    FOR EACH STATEMENT EXECUTE FUNCTION announce_topology();
