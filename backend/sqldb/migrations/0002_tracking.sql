-- +goose Up
CREATE TABLE experiments (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL,
    name      TEXT NOT NULL,
    artifact  TEXT NOT NULL,
    tags      TEXT NOT NULL, -- JSON
    created   INTEGER NOT NULL, -- all times are Unix ms
    updated   INTEGER NOT NULL,
    deleted   INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX experiments_name ON experiments (workspace, name);

CREATE TABLE runs (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace  TEXT NOT NULL,
    key        TEXT NOT NULL, -- the id in lower case
    id         TEXT NOT NULL,
    experiment INTEGER NOT NULL,
    parent     TEXT NOT NULL COLLATE NOCASE, -- id of the parent, '' for none
    job        INTEGER NOT NULL,
    status     TEXT NOT NULL,
    hidden     INTEGER NOT NULL,
    deleted    INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    start      INTEGER NOT NULL,
    finish     INTEGER NOT NULL,
    name       TEXT NOT NULL,
    user       TEXT NOT NULL,
    artifact   TEXT NOT NULL,
    tags       TEXT NOT NULL, -- JSON
    more       TEXT NOT NULL, -- JSON: what nothing is searched by
    params     TEXT NOT NULL DEFAULT '{}', -- JSON
    inputs     TEXT NOT NULL DEFAULT '{}', -- JSON: datasets, logged models in and out
    latest     BLOB -- packed: the latest of the folded points, by key
);
CREATE UNIQUE INDEX runs_key ON runs (workspace, key);
CREATE INDEX runs_experiment ON runs (experiment, seq);
CREATE INDEX runs_parent ON runs (workspace, parent, seq) WHERE parent <> '';
CREATE INDEX runs_jobs ON runs (workspace, seq) WHERE job = 1;
CREATE INDEX runs_open ON runs (seq) WHERE job = 1 AND status NOT IN ('Completed', 'Failed', 'Canceled');

-- One row for each request: the points of a run, as they came.
CREATE TABLE metric_log (
    id     INTEGER PRIMARY KEY,
    run    INTEGER NOT NULL,
    points BLOB NOT NULL
);
CREATE INDEX metric_log_run ON metric_log (run, id);

-- The points of one metric of a run: sorted, each once, compressed.
CREATE TABLE metric_chunks (
    id     INTEGER PRIMARY KEY,
    run    INTEGER NOT NULL,
    key    TEXT NOT NULL,
    first  INTEGER NOT NULL, -- lowest step
    last   INTEGER NOT NULL, -- highest step
    count  INTEGER NOT NULL,
    points BLOB NOT NULL
);
CREATE INDEX metric_chunks_key ON metric_chunks (run, key, first);

CREATE TABLE datasets (
    id         INTEGER PRIMARY KEY,
    experiment INTEGER NOT NULL,
    name       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    doc        TEXT NOT NULL -- JSON
);
CREATE UNIQUE INDEX datasets_name ON datasets (experiment, name, digest);

CREATE TABLE logged_models (
    seq        INTEGER PRIMARY KEY,
    workspace  TEXT NOT NULL,
    id         TEXT NOT NULL,
    experiment INTEGER NOT NULL,
    deleted    INTEGER NOT NULL,
    doc        TEXT NOT NULL -- JSON
);
CREATE UNIQUE INDEX logged_models_id ON logged_models (workspace, id);
CREATE INDEX logged_models_experiment ON logged_models (experiment, seq);

-- +goose Down
DROP TABLE logged_models;
DROP TABLE datasets;
DROP TABLE metric_chunks;
DROP TABLE metric_log;
DROP TABLE runs;
DROP TABLE experiments;
