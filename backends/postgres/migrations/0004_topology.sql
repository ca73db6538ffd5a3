-- The topology becomes one document, in coord's encoded form, with its version
-- and epoch beside it; empty before the first. The nodes of the tables before
-- it are its first version. Whoever changes them holds a lock on the topology,
-- which the first statement waits for.
ALTER TABLE topology
    ADD COLUMN version  BIGINT NOT NULL DEFAULT 0 CHECK (version >= 0),
    ADD COLUMN document BYTEA  NOT NULL DEFAULT '',
    ADD CHECK ((version = 0) = (octet_length(document) = 0));

UPDATE topology SET version = 1, document = convert_to(json_build_object(
    'format', 1, 'version', 1, 'epoch', epoch,
    'nodes', (SELECT coalesce(json_agg(json_build_object(
            'id', id, 'uuid', uuid, 'host', host, 'port', port, 'virtual_nodes', virtual_nodes, 'status', status
        ) ORDER BY id), '[]') FROM storage_nodes),
    'gone', (SELECT coalesce(json_agg(id ORDER BY id), '[]') FROM known_nodes WHERE id NOT IN (SELECT id FROM storage_nodes))
)::text, 'UTF8')
WHERE epoch > 0;

ALTER TABLE topology ALTER COLUMN version DROP DEFAULT, ALTER COLUMN document DROP DEFAULT;

DROP TABLE storage_nodes;
DROP TABLE known_nodes;

-- Tenants are told apart from those of the same id that were deleted before.
ALTER TABLE tenants
    ADD COLUMN space TEXT COLLATE "C",
    ADD COLUMN since BIGINT NOT NULL DEFAULT 0 CHECK (since >= 0); -- epoch of the replication factor

ALTER TABLE tenants DISABLE TRIGGER announce;
UPDATE tenants SET space = id;
ALTER TABLE tenants ENABLE TRIGGER announce;
ALTER TABLE tenants ALTER COLUMN space SET NOT NULL, ALTER COLUMN since DROP DEFAULT;

-- How many tenants of an id were deleted. Nothing leaves this table: no space
-- is ever given out twice.
CREATE TABLE tenant_generations (
    id         TEXT COLLATE "C" PRIMARY KEY,
    generation BIGINT NOT NULL CHECK (generation >= 1)
);

-- Spaces whose keys are still to be removed.
CREATE TABLE deleted_spaces (
    space TEXT COLLATE "C" PRIMARY KEY
);

CREATE TABLE checkpoints (
    name TEXT COLLATE "C" PRIMARY KEY,
    data BYTEA NOT NULL
);
