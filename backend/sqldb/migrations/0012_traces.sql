-- +goose Up
CREATE TABLE traces (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace  TEXT NOT NULL,
    id         TEXT NOT NULL,
    experiment INTEGER NOT NULL,
    start      INTEGER NOT NULL, -- Unix ms
    doc        TEXT NOT NULL -- JSON
);
CREATE UNIQUE INDEX traces_id ON traces (workspace, id);
CREATE INDEX traces_experiment ON traces (experiment, start);

-- One row for each request and trace: its spans as JSON lines, compressed.
CREATE TABLE trace_spans (
    id    INTEGER PRIMARY KEY,
    trace INTEGER NOT NULL,
    spans BLOB NOT NULL
);
CREATE INDEX trace_spans_trace ON trace_spans (trace, id);

-- +goose Down
DROP TABLE trace_spans;
DROP TABLE traces;
