-- +goose Up

-- Each value that a metric of a logged model ever had.
CREATE TABLE logged_model_metrics (
    model   INTEGER NOT NULL,
    key     TEXT NOT NULL,
    time    INTEGER NOT NULL, -- Unix ms
    step    INTEGER NOT NULL,
    run     INTEGER NOT NULL,
    value   REAL, -- NULL = NaN
    dataset TEXT NOT NULL, -- name
    digest  TEXT NOT NULL,
    PRIMARY KEY (model, key, time, step, run)
) WITHOUT ROWID;
CREATE INDEX logged_model_metrics_run ON logged_model_metrics (run);

INSERT OR IGNORE INTO logged_model_metrics
    SELECT m.seq, e.value ->> '$.key', e.value ->> '$.timestamp', e.value ->> '$.step', r.seq,
        CASE json_type(e.value, '$.value') WHEN 'text' THEN NULL ELSE e.value ->> '$.value' END,
        coalesce(e.value ->> '$.dataset_name', ''), coalesce(e.value ->> '$.dataset_digest', '')
    FROM logged_models m, json_each(m.doc, '$.metrics') e
    JOIN runs r ON r.workspace = m.workspace AND r.key = lower(e.value ->> '$.run_id');
UPDATE logged_models SET doc = json_remove(doc, '$.metrics');

-- +goose Down
DROP TABLE logged_model_metrics;
