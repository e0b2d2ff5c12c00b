-- +goose Up
CREATE TABLE evaluation_datasets (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL,
    id        TEXT NOT NULL,
    doc       TEXT NOT NULL -- JSON
);
CREATE UNIQUE INDEX evaluation_datasets_id ON evaluation_datasets (workspace, id);

CREATE TABLE evaluation_records (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL, -- id of the dataset, which is unique over all workspaces
    hash    TEXT NOT NULL, -- of the inputs
    id      TEXT NOT NULL,
    doc     TEXT NOT NULL -- JSON
);
CREATE UNIQUE INDEX evaluation_records_hash ON evaluation_records (dataset, hash);

CREATE TABLE scorers (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace  TEXT NOT NULL,
    experiment INTEGER NOT NULL,
    name       TEXT NOT NULL,
    version    INTEGER NOT NULL,
    id         TEXT NOT NULL, -- of the scorer, the same for all its versions
    created    INTEGER NOT NULL, -- Unix ms
    body       TEXT NOT NULL -- JSON
);
CREATE UNIQUE INDEX scorers_version ON scorers (experiment, name, version);

-- +goose Down
DROP TABLE scorers;
DROP TABLE evaluation_records;
DROP TABLE evaluation_datasets;
