-- +goose Up
CREATE TABLE webhook_outbox (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook  TEXT NOT NULL, -- id of the resource, in lower case
    id       TEXT NOT NULL,
    body     BLOB NOT NULL, -- JSON
    made     INTEGER NOT NULL, -- Unix ms
    attempts INTEGER NOT NULL,
    next     INTEGER NOT NULL -- Unix ms
);
CREATE INDEX webhook_outbox_webhook ON webhook_outbox (webhook);
CREATE INDEX webhook_outbox_next ON webhook_outbox (next);

-- +goose Down
DROP TABLE webhook_outbox;
