-- +goose Up
-- One row for each request and trace: its spans as JSON lines, compressed. The
-- id is the trace's seq * 2^20 and up, so that no index is needed.
CREATE TABLE trace_parts (
    id    INTEGER PRIMARY KEY,
    spans BLOB NOT NULL
);
INSERT INTO trace_parts (id, spans)
    SELECT (trace << 20) + row_number() OVER (PARTITION BY trace ORDER BY id) - 1, spans FROM trace_spans;
DROP TABLE trace_spans;

-- seq is given by the writer, who knows the last.
CREATE TABLE traces_now (
    seq        INTEGER PRIMARY KEY,
    workspace  TEXT NOT NULL,
    id         TEXT NOT NULL,
    experiment INTEGER NOT NULL,
    start      INTEGER NOT NULL, -- Unix ms
    doc        TEXT NOT NULL -- JSON
);
INSERT INTO traces_now SELECT seq, workspace, id, experiment, start, doc FROM traces;
DROP TABLE traces;
ALTER TABLE traces_now RENAME TO traces;
CREATE UNIQUE INDEX traces_id ON traces (workspace, id);
CREATE INDEX traces_experiment ON traces (experiment, start);

-- +goose Down
CREATE TABLE trace_spans (
    id    INTEGER PRIMARY KEY,
    trace INTEGER NOT NULL,
    spans BLOB NOT NULL
);
INSERT INTO trace_spans (trace, spans) SELECT id >> 20, spans FROM trace_parts ORDER BY id;
CREATE INDEX trace_spans_trace ON trace_spans (trace, id);
DROP TABLE trace_parts;
