package score

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// parquetType is the content type of tables in Parquet.
const parquetType = "application/vnd.apache.parquet"

// parquetWrong is what MLflow says of a table that cannot be read.
const parquetWrong = "Failed to parse input as a Pandas DataFrame. Ensure that the input is a valid Parquet Pandas DataFrame produced using the `pandas.DataFrame.to_parquet()` method. Error: '%v'"

// maxCells bounds the cells of a table in Parquet, which may be much more than
// its bytes.
const maxCells = 20 << 20

// parquet reads a table in Parquet.
func (c *call) parquet(body []byte) (err error) {
	defer func() {
		if r := recover(); r != nil { // of a file that is broken in a way the reader does not look for
			err = traced(invalid(parquetWrong, r))
		}
	}()
	t, err := readParquet(body)
	if err != nil {
		return traced(invalid(parquetWrong, err))
	}
	c.data.table = t
	return nil
}

func readParquet(body []byte) (*table, error) {
	f, err := parquet.OpenFile(bytes.NewReader(body), int64(len(body)), parquet.SkipBloomFilters(true), parquet.SkipPageIndex(true))
	if err != nil {
		return nil, err
	}
	hidden := indexColumns(f)
	paths := f.Schema().Columns()
	t := &table{named: true}
	at := make([]int, len(paths)) // where the column is in the table; -1 for not there
	for i, path := range paths {
		at[i] = -1
		if slices.Contains(hidden, path[0]) {
			continue
		}
		if len(path) != 1 {
			return nil, fmt.Errorf("column %s is nested", path[0])
		}
		at[i] = len(t.columns)
		t.columns = append(t.columns, column{name: path[0]})
	}
	if f.NumRows() < 0 || f.NumRows() > maxCells/int64(max(len(paths), 1)) {
		return nil, fmt.Errorf("it has %d rows of %d columns", f.NumRows(), len(paths))
	}
	rows := make([]parquet.Row, 64)
	for _, group := range f.RowGroups() {
		r := group.Rows()
		for {
			n, err := r.ReadRows(rows)
			for _, row := range rows[:n] {
				for _, v := range row {
					if to := at[v.Column()]; to >= 0 {
						t.columns[to].cells = append(t.columns[to].cells, parquetCell(v))
					}
				}
				t.rows++
			}
			if err != nil || n == 0 {
				_ = r.Close()
				break
			}
		}
	}
	if int64(t.rows) != f.NumRows() {
		return nil, fmt.Errorf("it ends after %d of %d rows", t.rows, f.NumRows())
	}
	for i, path := range paths {
		if at[i] >= 0 {
			leaf, _ := f.Schema().Lookup(path...)
			col := &t.columns[at[i]]
			col.dtype = dtypeOf(leaf.Node.Type(), col.cells)
		}
	}
	for _, col := range t.columns {
		if len(col.cells) != t.rows {
			return nil, fmt.Errorf("column %s has lists", col.name)
		}
	}
	return t, nil
}

// indexColumns are the columns that pandas wrote its index to.
func indexColumns(f *parquet.File) []string {
	text, _ := f.Lookup("pandas")
	var meta struct {
		Index []any `json:"index_columns"`
	}
	var names []string
	if json.Unmarshal([]byte(text), &meta) == nil {
		for _, i := range meta.Index {
			if name, ok := i.(string); ok {
				names = append(names, name)
			}
		}
	}
	return names
}

// dtypeOf is the type that pandas gives a column: whole numbers with one missing
// are fractions.
func dtypeOf(t parquet.Type, cells []cell) string {
	missing := slices.ContainsFunc(cells, func(v cell) bool { return v.kind == null })
	if l := t.LogicalType(); l != nil {
		switch l.Value.(type) {
		case *format.TimestampType, *format.DateType, *format.TimeType:
			return "datetime64[ns]"
		}
	}
	switch kind := t.Kind(); {
	case kind == parquet.Boolean && !missing:
		return "bool"
	case kind == parquet.Float:
		return "float32"
	case kind == parquet.Double, missing && (kind == parquet.Int32 || kind == parquet.Int64):
		return "float64"
	case kind == parquet.Int32:
		return "int32"
	case kind == parquet.Int64:
		return "int64"
	}
	return "object"
}

func parquetCell(v parquet.Value) cell {
	if v.IsNull() {
		return cell{}
	}
	switch v.Kind() {
	case parquet.Boolean:
		if v.Boolean() {
			return cell{kind: boolean, f: 1, i: 1}
		}
		return cell{kind: boolean}
	case parquet.Int32, parquet.Int64:
		n := v.Int64()
		if v.Kind() == parquet.Int32 {
			n = int64(v.Int32())
		}
		return cell{kind: number, f: float64(n), i: n, whole: true}
	case parquet.Float:
		return cell{kind: number, f: float64(v.Float())}
	case parquet.Double:
		return cell{kind: number, f: v.Double()}
	}
	return cell{kind: text, s: string(v.ByteArray())}
}
