-- +goose Up

-- Why the server itself did something: what a rule decided, on what evidence.
ALTER TABLE activities ADD COLUMN reason TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE activities DROP COLUMN reason;
