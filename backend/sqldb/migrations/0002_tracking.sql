-- +goose Up
CREATE TABLE experiments (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL,
    name      TEXT NOT NULL,
    artifact  TEXT NOT NULL,
    tags      TEXT NOT NULL DEFAULT '{}',
    created   INTEGER NOT NULL,
    updated   INTEGER NOT NULL,
    deleted   INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX experiments_name ON experiments (workspace, name);

-- +goose Down
DROP TABLE experiments;
