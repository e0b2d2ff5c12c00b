-- +goose Up

-- key is the id in lower case; text is the id in the case it was made in.
CREATE TABLE resources (
    key        TEXT PRIMARY KEY,
    text       TEXT NOT NULL,
    type       TEXT NOT NULL,
    parent     TEXT NOT NULL,
    etag       TEXT NOT NULL,
    born       INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    lookup     TEXT NOT NULL DEFAULT '',
    archived   INTEGER NOT NULL DEFAULT 0,
    envelope   TEXT NOT NULL,
    properties TEXT NOT NULL,
    status     TEXT
) WITHOUT ROWID;
CREATE INDEX resources_type ON resources (type, key);
CREATE INDEX resources_parent ON resources (parent, type, born);
CREATE INDEX resources_lookup ON resources (type, lookup) WHERE lookup <> '';
CREATE INDEX resources_seq ON resources (seq);

CREATE TABLE removed (
    seq  INTEGER NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX removed_seq ON removed (seq);

-- One row: its update inside each commit puts the numbers in commit order.
CREATE TABLE sequence (n INTEGER NOT NULL);
INSERT INTO sequence VALUES (0);

CREATE TABLE operations (
    id       TEXT PRIMARY KEY,
    verb     TEXT NOT NULL,
    resource TEXT NOT NULL,
    caller   TEXT NOT NULL,
    state    TEXT NOT NULL,
    code     TEXT NOT NULL,
    message  TEXT NOT NULL,
    input    TEXT,
    result   TEXT,
    started  INTEGER NOT NULL,
    ended    INTEGER NOT NULL
);
CREATE INDEX operations_open ON operations (started) WHERE state = 'Running';
CREATE INDEX operations_ended ON operations (ended) WHERE state <> 'Running';

CREATE TABLE activities (
    at          INTEGER NOT NULL,
    scope       TEXT NOT NULL,
    resource    TEXT NOT NULL,
    caller      TEXT NOT NULL,
    caller_id   TEXT NOT NULL,
    action      TEXT NOT NULL,
    result      TEXT NOT NULL,
    correlation TEXT NOT NULL
);
CREATE INDEX activities_at ON activities (at);

CREATE TABLE secrets (
    owner  TEXT NOT NULL,
    name   TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (owner, name)
) WITHOUT ROWID;
