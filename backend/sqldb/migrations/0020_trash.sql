-- +goose Up
CREATE INDEX runs_deleted ON runs (deleted, seq) WHERE deleted <> 0;

-- What is left to remove for good: written with what was removed already.
CREATE TABLE waste (
    id        INTEGER PRIMARY KEY,
    workspace TEXT NOT NULL,
    kind      TEXT NOT NULL, -- 'experiment': its rows; 'artifacts': what lies at a URI
    ref       TEXT NOT NULL  -- the experiment's id, or the URI
);
CREATE INDEX waste_workspace ON waste (workspace, id);

-- +goose Down
DROP TABLE waste;
DROP INDEX runs_deleted;
