-- The topology becomes one document, in coord's encoded form, with its version
-- and epoch beside it; empty before the first. The nodes of the tables before
-- it are its first version.
CREATE TABLE topology_document (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    version  INTEGER NOT NULL CHECK (version >= 0),
    epoch    INTEGER NOT NULL CHECK (epoch >= 0),
    document BLOB    NOT NULL CHECK ((version = 0) = (length(document) = 0))
) STRICT;

INSERT INTO topology_document (one, version, epoch, document)
SELECT 1, 1, epoch, CAST(json_object(
    'format', 1, 'version', 1, 'epoch', epoch,
    'nodes', json((SELECT json_group_array(json_object(
            'id', id, 'uuid', uuid, 'host', host, 'port', port, 'virtual_nodes', virtual_nodes, 'status', status
        ) ORDER BY id) FROM storage_nodes)),
    'gone', json((SELECT json_group_array(id ORDER BY id) FROM known_nodes WHERE id NOT IN (SELECT id FROM storage_nodes)))
) AS BLOB)
FROM topology WHERE epoch > 0;

INSERT INTO topology_document (one, version, epoch, document) VALUES (1, 0, 0, x'') ON CONFLICT DO NOTHING;

DROP TABLE topology;
DROP TABLE storage_nodes;
DROP TABLE known_nodes;
ALTER TABLE topology_document RENAME TO topology;

-- Tenants are told apart from those of the same id that were deleted before.
CREATE TABLE tenants_in_spaces (
    id                 TEXT    PRIMARY KEY,
    replication_factor INTEGER NOT NULL CHECK (replication_factor >= 1),
    created_at         INTEGER NOT NULL, -- Unix seconds
    updated_at         INTEGER NOT NULL, -- Unix seconds
    space              TEXT    NOT NULL,
    since              INTEGER NOT NULL CHECK (since >= 0) -- epoch of the replication factor
) STRICT, WITHOUT ROWID;

INSERT INTO tenants_in_spaces SELECT id, replication_factor, created_at, updated_at, id, 0 FROM tenants;

DROP TABLE tenants;
ALTER TABLE tenants_in_spaces RENAME TO tenants;
CREATE INDEX tenants_by_replication_factor ON tenants (replication_factor);

-- How many tenants of an id were deleted. Nothing leaves this table: no space
-- is ever given out twice.
CREATE TABLE tenant_generations (
    id         TEXT    PRIMARY KEY,
    generation INTEGER NOT NULL CHECK (generation >= 1)
) STRICT, WITHOUT ROWID;

-- Spaces whose keys are still to be removed.
CREATE TABLE deleted_spaces (
    space TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    name TEXT PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;
