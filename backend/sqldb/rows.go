package sqldb

import (
	"fmt"

	"lapis/resource"
)

// putRow writes a row that belongs to a batch of resources but lives in a table
// of its own.
func (db *DB) putRow(tx *Tx, row any) error {
	switch row := row.(type) {
	case resource.Sealed:
		return putSecret(tx, row)
	default:
		return fmt.Errorf("a batch holds a row of the type %T, for which there is no table", row)
	}
}
