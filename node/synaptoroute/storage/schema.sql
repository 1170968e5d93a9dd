-- The node's database, schema version 1.
--
-- `sum` is the CRC-32 of the row's other columns (see records.py).  It covers what the
-- state's digest does not cover.  Texts are UTF-8, vectors are float32, little-endian.

-- One row: the position of the state, and the settings of the route set.
CREATE TABLE meta (
    only          INTEGER PRIMARY KEY CHECK (only = 1),
    epoch         INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    chain         TEXT    NOT NULL,
    digest        TEXT    NOT NULL,
    fingerprint   TEXT    NOT NULL,
    dim           INTEGER NOT NULL,
    settings      TEXT    NOT NULL,
    sum           INTEGER NOT NULL
) STRICT;

-- Facts of this node that no other node gets: its identity, promises, voters.
CREATE TABLE node (
    key           TEXT    PRIMARY KEY,
    value         TEXT    NOT NULL,
    sum           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE route (
    route_id      INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    threshold     REAL,
    metadata      TEXT    NOT NULL,
    payload       TEXT    NOT NULL,
    epoch         INTEGER NOT NULL,
    seq           INTEGER NOT NULL
) STRICT;

CREATE TABLE slot (
    slot          INTEGER PRIMARY KEY,
    route_id      INTEGER NOT NULL,
    utterance     TEXT    NOT NULL,
    vector        BLOB    NOT NULL,
    row_hash      BLOB    NOT NULL
) STRICT;

-- Re-encoded rows that wait beside the old ones (see re_embedding.py).
CREATE TABLE slot_next (
    slot          INTEGER PRIMARY KEY,
    vector        BLOB    NOT NULL,
    row_hash      BLOB    NOT NULL
) STRICT;

-- The newest entries, for peers that are behind.  Chain and frame check themselves.
CREATE TABLE oplog (
    seq           INTEGER PRIMARY KEY,
    epoch         INTEGER NOT NULL,
    op_id         BLOB    NOT NULL,
    prev_chain    TEXT    NOT NULL,
    chain         TEXT    NOT NULL,
    time_us       INTEGER NOT NULL,
    frame         BLOB    NOT NULL,
    outcome       TEXT    NOT NULL,
    digest        TEXT    NOT NULL
) STRICT;

-- Outcomes of writes.  The key is seq, not op_id, so that old outcomes are a range to delete.
CREATE TABLE remembered (
    seq           INTEGER PRIMARY KEY,
    op_id         BLOB    NOT NULL,
    request_hash  BLOB    NOT NULL,
    outcome       TEXT    NOT NULL,
    sum           INTEGER NOT NULL
) STRICT;

CREATE TABLE import_open (
    import_id     TEXT    PRIMARY KEY,
    is_replace    INTEGER NOT NULL,
    touched_seq   INTEGER NOT NULL,
    sum           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE staging (
    import_id     TEXT    NOT NULL,
    number        INTEGER NOT NULL,
    frame         BLOB    NOT NULL,
    UNIQUE (import_id, number)
) STRICT;

CREATE TABLE epoch (
    epoch         INTEGER PRIMARY KEY,
    epoch_id      TEXT    NOT NULL,
    base_seq      INTEGER NOT NULL,
    voters        TEXT    NOT NULL,
    fingerprint   TEXT    NOT NULL,
    dim           INTEGER NOT NULL,
    sum           INTEGER NOT NULL
) STRICT;

-- Entries of a history that lost: kept for an operator, never applied.
CREATE TABLE orphan (
    orphan_id     INTEGER PRIMARY KEY,
    op_id         BLOB    NOT NULL,
    epoch         INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    frame         BLOB    NOT NULL,
    moved_at_us   INTEGER NOT NULL
) STRICT;
