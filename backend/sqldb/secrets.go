package sqldb

import (
	"context"
	"database/sql"
	"errors"

	"lapis/resource"
)

// Secret returns a sealed value, or nil if there is none.
func (s *Resources) Secret(ctx context.Context, owner resource.ID, name string) ([]byte, error) {
	var sealed []byte
	err := s.db.Read().QueryRowContext(ctx, "SELECT sealed FROM secrets WHERE owner = ? AND name = ?", owner.Key(), name).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return sealed, err
}

func putSecret(tx *Tx, s resource.Sealed) error {
	_, err := tx.Exec("INSERT OR REPLACE INTO secrets (owner, name, sealed) VALUES (?,?,?)", s.Owner.Key(), s.Name, s.Value)
	return err
}
