package mlflow

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver

	"lapis/fault"
)

// database is a store that MLflow 2 or 3 keeps in SQLite. It is only read, and
// never held: a server may go on writing to it.
type database struct {
	db      *sql.DB
	columns map[string]map[string]bool // table → its columns
	disk    disk
}

func openDatabase(ctx context.Context, path string, o Options) (Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fault.NotFound("There is no MLflow database at %s: %v", path, err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	where, err := newDisk(filepath.Dir(abs), o.Artifacts, "mlartifacts", "mlruns", ".")
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: "mode=ro&_pragma=busy_timeout(20000)&_pragma=query_only(1)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(8)
	d := &database{db: db, columns: map[string]map[string]bool{}, disk: where}
	if err := d.schema(ctx); err != nil {
		db.Close()
		return nil, fault.Invalid("%s cannot be read as an MLflow database: %v", path, err)
	}
	for _, t := range []string{"experiments", "runs", "metrics", "params", "tags"} {
		if d.columns[t] == nil {
			db.Close()
			return nil, fault.Invalid("%s is not an MLflow database: it has no table %q.", path, t)
		}
	}
	return d, nil
}

// schema notes which columns there are: they tell the releases apart.
func (d *database) schema(ctx context.Context) error {
	return d.each(ctx, func(row *sql.Rows) error {
		var table, column string
		if err := row.Scan(&table, &column); err != nil {
			return err
		}
		if d.columns[table] == nil {
			d.columns[table] = map[string]bool{}
		}
		d.columns[table][column] = true
		return nil
	}, `SELECT m.name, p.name FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table'`)
}

func (d *database) has(table string) bool { return d.columns[table] != nil }

// column is the name, or an expression in place of a column that this release
// of MLflow does not have.
func (d *database) column(table, name, otherwise string) string {
	if d.columns[table][name] {
		return name
	}
	return otherwise
}

// each calls visit with each row.
func (d *database) each(ctx context.Context, visit func(*sql.Rows) error, query string, args ...any) error {
	rows, err := d.db.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("read the MLflow database: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := visit(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// tags reads keys and values.
func (d *database) tags(ctx context.Context, query string, args ...any) ([]Tag, error) {
	var tags []Tag
	err := d.each(ctx, func(row *sql.Rows) error {
		var key string
		var value sql.NullString
		if err := row.Scan(&key, &value); err != nil {
			return err
		}
		tags = append(tags, Tag{key, value.String})
		return nil
	}, query, args...)
	return tags, err
}

// texts reads a column.
func (d *database) texts(ctx context.Context, query string, args ...any) ([]string, error) {
	var list []string
	err := d.each(ctx, func(row *sql.Rows) error {
		var s string
		if err := row.Scan(&s); err != nil {
			return err
		}
		list = append(list, s)
		return nil
	}, query, args...)
	return list, err
}

// optional are columns that may be NULL.
type optional struct {
	text sql.NullString
	n    sql.NullInt64
}

func (d *database) Experiments(ctx context.Context) ([]Experiment, error) {
	var list []Experiment
	err := d.each(ctx, func(row *sql.Rows) error {
		var e Experiment
		var artifact, lifecycle sql.NullString
		var created, updated sql.NullInt64
		if err := row.Scan(&e.ID, &e.Name, &artifact, &lifecycle, &created, &updated); err != nil {
			return err
		}
		e.Artifact, e.Lifecycle, e.Created, e.Updated = artifact.String, lifecycle.String, created.Int64, updated.Int64
		list = append(list, e)
		return nil
	}, `SELECT experiment_id, name, artifact_location, lifecycle_stage, `+d.column("experiments", "creation_time", "NULL")+`, `+
		d.column("experiments", "last_update_time", "NULL")+` FROM experiments ORDER BY experiment_id`)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if d.has("experiment_tags") {
			if list[i].Tags, err = d.tags(ctx, `SELECT key, value FROM experiment_tags WHERE experiment_id = ? ORDER BY key`, list[i].ID); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

func (d *database) Runs(ctx context.Context, e Experiment) ([]string, error) {
	return d.texts(ctx, `SELECT run_uuid FROM runs WHERE experiment_id = ? ORDER BY start_time, run_uuid`, e.ID)
}

func (d *database) Run(ctx context.Context, e Experiment, id string) (Run, error) {
	r := Run{Info: RunInfo{ID: id, Experiment: e.ID}}
	var name, user, status, lifecycle, artifact optional
	var start, end, deleted optional
	err := d.db.QueryRowContext(ctx, `SELECT name, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri, `+
		d.column("runs", "deleted_time", "NULL")+` FROM runs WHERE run_uuid = ?`, id).
		Scan(&name.text, &user.text, &status.text, &start.n, &end.n, &lifecycle.text, &artifact.text, &deleted.n)
	if err != nil {
		return r, fmt.Errorf("read run %s: %w", id, err)
	}
	r.Info.Name, r.Info.User, r.Info.Status, r.Info.Lifecycle, r.Info.Artifact = name.text.String, user.text.String, status.text.String, lifecycle.text.String, artifact.text.String
	r.Info.Start, r.Info.End, r.Info.Deleted = start.n.Int64, end.n.Int64, deleted.n.Int64
	if r.Data.Params, err = d.tags(ctx, `SELECT key, value FROM params WHERE run_uuid = ? ORDER BY key`, id); err != nil {
		return r, err
	}
	if r.Data.Tags, err = d.tags(ctx, `SELECT key, value FROM tags WHERE run_uuid = ? ORDER BY key`, id); err != nil {
		return r, err
	}
	if err := d.inputs(ctx, &r); err != nil {
		return r, err
	}
	// The index on the run makes this cheap however long the histories are.
	var count int64
	if err := d.db.QueryRowContext(ctx, `SELECT count(*) FROM metrics WHERE run_uuid = ?`, id).Scan(&count); err != nil {
		return r, err
	}
	h := sha256.New()
	fmt.Fprintln(h, count)
	if d.has("latest_metrics") {
		err = d.each(ctx, func(row *sql.Rows) error {
			var key, value string
			var at, step optional
			if err := row.Scan(&key, &value, &at.n, &step.n); err != nil {
				return err
			}
			fmt.Fprintf(h, "%q %s %d %d\n", key, value, at.n.Int64, step.n.Int64)
			return nil
		}, `SELECT key, CAST(value AS TEXT), timestamp, step FROM latest_metrics WHERE run_uuid = ? ORDER BY key`, id)
	}
	r.State = fmt.Sprintf("%x", h.Sum(nil))
	return r, err
}

// inputs reads what a run read and made.
func (d *database) inputs(ctx context.Context, r *Run) error {
	if !d.has("inputs") || !d.has("datasets") {
		return nil
	}
	var uses []string
	err := d.each(ctx, func(row *sql.Rows) error {
		var in DatasetInput
		var use string
		var schema, profile sql.NullString
		if err := row.Scan(&use, &in.Dataset.Name, &in.Dataset.Digest, &in.Dataset.SourceType, &in.Dataset.Source, &schema, &profile); err != nil {
			return err
		}
		in.Dataset.Schema, in.Dataset.Profile = schema.String, profile.String
		uses = append(uses, use)
		r.Inputs.Datasets = append(r.Inputs.Datasets, in)
		return nil
	}, `SELECT i.input_uuid, d.name, d.digest, d.dataset_source_type, d.dataset_source, d.dataset_schema, d.dataset_profile
		FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id
		WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN' AND i.destination_id = ? ORDER BY i.rowid`, r.Info.ID)
	if err != nil {
		return err
	}
	for i, use := range uses {
		if r.Inputs.Datasets[i].Tags, err = d.tags(ctx, `SELECT name, value FROM input_tags WHERE input_uuid = ? ORDER BY name`, use); err != nil {
			return err
		}
	}
	if !d.has("logged_models") {
		return nil
	}
	models, err := d.texts(ctx, `SELECT destination_id FROM inputs WHERE source_type = 'RUN_INPUT' AND destination_type = 'MODEL_INPUT' AND source_id = ? ORDER BY rowid`, r.Info.ID)
	for _, m := range models {
		r.Inputs.Models = append(r.Inputs.Models, ModelInput{m})
	}
	if err != nil {
		return err
	}
	return d.each(ctx, func(row *sql.Rows) error {
		var m ModelOutput
		if err := row.Scan(&m.Model, &m.Step); err != nil {
			return err
		}
		r.Outputs.Models = append(r.Outputs.Models, m)
		return nil
	}, `SELECT destination_id, `+d.column("inputs", "step", "0")+` FROM inputs WHERE source_type = 'RUN_OUTPUT' AND destination_type = 'MODEL_OUTPUT' AND source_id = ? ORDER BY rowid`, r.Info.ID)
}

// pieces is how many points go in one request.
const pieces = 1000

func (d *database) Metrics(ctx context.Context, r Run) iter.Seq2[[]Metric, error] {
	return func(yield func([]Metric, error) bool) {
		// In pages, so that a server that writes to the database is never kept
		// waiting for the network.
		var last int64 = -1 << 62
		for {
			page := make([]Metric, 0, pieces)
			err := d.each(ctx, func(row *sql.Rows) error {
				var m Metric
				var value sql.NullFloat64
				var nan sql.NullBool
				if err := row.Scan(&last, &m.Key, &value, &m.Time, &m.Step, &nan); err != nil {
					return err
				}
				m.Value = Number(value.Float64)
				if nan.Bool || !value.Valid {
					m.Value = notANumber
				}
				page = append(page, m)
				return nil
			}, `SELECT rowid, key, value, timestamp, `+d.column("metrics", "step", "0")+`, `+d.column("metrics", "is_nan", "0")+
				` FROM metrics WHERE run_uuid = ? AND rowid > ? ORDER BY rowid LIMIT `+strconv.Itoa(pieces), r.Info.ID, last)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(page) > 0 && !yield(page, nil) || len(page) < pieces {
				return
			}
		}
	}
}

func (d *database) Models(ctx context.Context, e Experiment) ([]LoggedModel, error) {
	if !d.has("logged_models") {
		return nil, nil
	}
	var list []LoggedModel
	err := d.each(ctx, func(row *sql.Rows) error {
		var m LoggedModel
		var lifecycle, kind, run, message sql.NullString
		var status int
		if err := row.Scan(&m.ID, &m.Name, &m.Artifact, &m.Created, &m.Updated, &status, &lifecycle, &kind, &run, &message); err != nil {
			return err
		}
		m.Experiment, m.Status, m.Type, m.SourceRun, m.Message = e.ID, modelState(status), kind.String, run.String, message.String
		if lifecycle.String == "deleted" {
			m.Deleted = m.Updated
		}
		list = append(list, m)
		return nil
	}, `SELECT model_id, name, artifact_location, creation_timestamp_ms, last_updated_timestamp_ms, status, lifecycle_stage, model_type, source_run_id, status_message
		FROM logged_models WHERE experiment_id = ? ORDER BY creation_timestamp_ms, model_id`, e.ID)
	if err != nil {
		return nil, err
	}
	for i := range list {
		m := &list[i]
		if m.Tags, err = d.tags(ctx, `SELECT tag_key, tag_value FROM logged_model_tags WHERE model_id = ? ORDER BY tag_key`, m.ID); err != nil {
			return nil, err
		}
		if m.Params, err = d.tags(ctx, `SELECT param_key, param_value FROM logged_model_params WHERE model_id = ? ORDER BY param_key`, m.ID); err != nil {
			return nil, err
		}
		err = d.each(ctx, func(row *sql.Rows) error {
			p := Metric{Model: m.ID}
			var value sql.NullFloat64
			var name, digest sql.NullString
			if err := row.Scan(&p.Key, &p.Time, &p.Step, &value, &p.Run, &name, &digest); err != nil {
				return err
			}
			p.Value, p.DatasetName, p.DatasetDigest = Number(value.Float64), name.String, digest.String
			if !value.Valid {
				p.Value = notANumber
			}
			m.Metrics = append(m.Metrics, p)
			return nil
		}, `SELECT metric_name, metric_timestamp_ms, metric_step, metric_value, run_id, dataset_name, dataset_digest FROM logged_model_metrics WHERE model_id = ? ORDER BY rowid`, m.ID)
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (d *database) Registered(ctx context.Context) ([]RegisteredModel, error) {
	if !d.has("registered_models") {
		return nil, nil
	}
	var list []RegisteredModel
	at := map[string]int{}
	err := d.each(ctx, func(row *sql.Rows) error {
		m := RegisteredModel{Aliases: map[string]string{}}
		var created, updated sql.NullInt64
		var description sql.NullString
		if err := row.Scan(&m.Name, &created, &updated, &description); err != nil {
			return err
		}
		m.Created, m.Updated, m.Description = created.Int64, updated.Int64, description.String
		at[m.Name] = len(list)
		list = append(list, m)
		return nil
	}, `SELECT name, creation_time, last_updated_time, `+d.column("registered_models", "description", "NULL")+` FROM registered_models ORDER BY name`)
	if err != nil {
		return nil, err
	}
	const t = "model_versions"
	err = d.each(ctx, func(row *sql.Rows) error {
		var v ModelVersion
		var created, updated sql.NullInt64
		var description, user, stage, source, run, link, storage sql.NullString
		if err := row.Scan(&v.Name, &v.Number, &created, &updated, &description, &user, &stage, &source, &run, &link, &storage); err != nil {
			return err
		}
		v.Created, v.Updated = created.Int64, updated.Int64
		v.Description, v.User, v.Stage, v.Source, v.Run, v.RunLink, v.Storage = description.String, user.String, stage.String, source.String, run.String, link.String, storage.String
		i, ok := at[v.Name]
		if !ok {
			return nil
		}
		if n, err := strconv.ParseInt(v.Number, 10, 64); err == nil {
			list[i].Last = max(list[i].Last, n)
		}
		if v.Stage != deletedStage {
			list[i].Versions = append(list[i].Versions, v)
		}
		return nil
	}, `SELECT name, version, creation_time, last_updated_time, `+d.column(t, "description", "NULL")+`, user_id, current_stage, source, run_id, `+
		d.column(t, "run_link", "NULL")+`, `+d.column(t, "storage_location", "NULL")+` FROM model_versions ORDER BY name, version`)
	if err != nil {
		return nil, err
	}
	for i := range list {
		m := &list[i]
		if d.has("registered_model_tags") {
			if m.Tags, err = d.tags(ctx, `SELECT key, value FROM registered_model_tags WHERE name = ? ORDER BY key`, m.Name); err != nil {
				return nil, err
			}
		}
		if d.has("registered_model_aliases") {
			aliases, err := d.tags(ctx, `SELECT alias, CAST(version AS TEXT) FROM registered_model_aliases WHERE name = ?`, m.Name)
			if err != nil {
				return nil, err
			}
			for _, a := range aliases {
				m.Aliases[a.Key] = a.Value
			}
		}
		for n := range m.Versions {
			v := &m.Versions[n]
			if d.has("model_version_tags") {
				if v.Tags, err = d.tags(ctx, `SELECT key, value FROM model_version_tags WHERE name = ? AND version = ? ORDER BY key`, v.Name, v.Number); err != nil {
					return nil, err
				}
			}
		}
	}
	return list, nil
}

func (d *database) Traces(ctx context.Context, e Experiment) ([]string, error) {
	if !d.has("trace_info") {
		return nil, nil
	}
	return d.texts(ctx, `SELECT request_id FROM trace_info WHERE experiment_id = ? ORDER BY timestamp_ms, request_id`, e.ID)
}

func (d *database) Trace(ctx context.Context, e Experiment, id string) (Trace, error) {
	t := Trace{ID: id, Location: inExperiment(e.ID)}
	const table = "trace_info"
	var start int64
	var duration sql.NullInt64
	var state, client, request, response sql.NullString
	err := d.db.QueryRowContext(ctx, `SELECT timestamp_ms, execution_time_ms, status, `+d.column(table, "client_request_id", "NULL")+`, `+
		d.column(table, "request_preview", "NULL")+`, `+d.column(table, "response_preview", "NULL")+` FROM trace_info WHERE request_id = ?`, id).
		Scan(&start, &duration, &state, &client, &request, &response)
	if err != nil {
		return t, fmt.Errorf("read trace %s: %w", id, err)
	}
	t.Time, t.State, t.ClientRequest, t.Request, t.Response = stamp(start), state.String, client.String, request.String, response.String
	if duration.Valid {
		t.Duration = seconds(duration.Int64)
	}
	tags, err := d.tags(ctx, `SELECT key, value FROM trace_tags WHERE request_id = ?`, id)
	if err != nil {
		return t, err
	}
	metadata, err := d.tags(ctx, `SELECT key, value FROM trace_request_metadata WHERE request_id = ?`, id)
	if err != nil {
		return t, err
	}
	t.Tags, t.Metadata = asMap(tags), asMap(metadata)
	if err := d.promoted(ctx, &t); err != nil {
		return t, err
	}
	if d.has("assessments") {
		if t.Assessments, err = d.assessments(ctx, id); err != nil {
			return t, err
		}
	}
	if d.has("entity_associations") {
		if t.Runs, err = d.texts(ctx, `SELECT destination_id FROM entity_associations WHERE source_type = 'trace' AND destination_type = 'run' AND source_id = ?`, id); err != nil {
			return t, err
		}
	}
	if d.has("spans") {
		err = d.each(ctx, func(row *sql.Rows) error {
			var content []byte
			if err := row.Scan(&content); err != nil {
				return err
			}
			s, err := parseSpan(content)
			if err == nil {
				t.Spans = append(t.Spans, s)
			}
			return err
		}, `SELECT content FROM spans WHERE trace_id = ? ORDER BY start_time_unix_nano, span_id`, id)
		if err != nil {
			return t, err
		}
	}
	if len(t.Spans) == 0 {
		err = t.readSpans(d.disk)
	}
	return t, err
}

// promoted reads the tags and metadata that newer releases keep in columns of
// the trace.
func (d *database) promoted(ctx context.Context, t *Trace) error {
	columns := d.columns["trace_info"]
	one := func(column string) (string, error) {
		if !columns[column] {
			return "", nil
		}
		var v any
		if err := d.db.QueryRowContext(ctx, `SELECT `+column+` FROM trace_info WHERE request_id = ?`, t.ID).Scan(&v); err != nil {
			return "", err
		}
		switch v := v.(type) {
		case string:
			return v, nil
		case []byte:
			return string(v), nil
		case int64:
			return strconv.FormatInt(v, 10), nil
		case float64:
			text := strconv.FormatFloat(v, 'g', -1, 64)
			if !strings.ContainsAny(text, ".e") {
				text += ".0" // as Python writes it
			}
			return text, nil
		}
		return "", nil
	}
	for column, to := range map[string]func(string){
		"trace_name": func(v string) { t.Tags["mlflow.traceName"] = v },
		"session_id": func(v string) { t.Metadata["mlflow.trace.session"] = v },
	} {
		v, err := one(column)
		if err != nil {
			return err
		}
		if v != "" {
			to(v)
		}
	}
	for key, names := range map[string][]string{
		"mlflow.trace.tokenUsage": {"input_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation_input_tokens_above_1hr"},
		"mlflow.trace.cost":       {"input_cost", "output_cost", "total_cost"},
	} {
		var members []string
		for _, name := range names {
			v, err := one(name)
			if err != nil {
				return err
			}
			if v != "" {
				members = append(members, strconv.Quote(name)+": "+v)
			}
		}
		if members != nil {
			t.Metadata[key] = "{" + strings.Join(members, ", ") + "}"
		}
	}
	return nil
}

// assessments reads what people and programs think of a trace.
func (d *database) assessments(ctx context.Context, trace string) ([]json.RawMessage, error) {
	var list []json.RawMessage
	err := d.each(ctx, func(row *sql.Rows) error {
		var id, name, kind, value, sourceType string
		var failure, source, span, rationale, overrides, metadata sql.NullString
		var created, updated int64
		var valid bool
		if err := row.Scan(&id, &name, &kind, &value, &failure, &created, &updated, &sourceType, &source, &span, &rationale, &overrides, &valid, &metadata); err != nil {
			return err
		}
		a := map[string]any{
			"assessment_id": id, "assessment_name": name, "trace_id": trace, "create_time": stamp(created), "last_update_time": stamp(updated), "valid": valid,
			"source": map[string]string{"source_type": sourceType, "source_id": source.String},
		}
		for field, v := range map[string]sql.NullString{"span_id": span, "rationale": rationale, "overrides": overrides} {
			if v.String != "" {
				a[field] = v.String
			}
		}
		if metadata.String != "" {
			a["metadata"] = json.RawMessage(metadata.String)
		}
		content := map[string]any{"value": json.RawMessage(value)}
		if kind == "expectation" && strings.ContainsAny(value[:min(1, len(value))], "{[") {
			content = map[string]any{"serialized_value": map[string]string{"serialization_format": "JSON_FORMAT", "value": value}}
		}
		if failure.String != "" {
			content["error"] = json.RawMessage(failure.String)
		}
		a[kind] = content
		raw, err := json.Marshal(a)
		list = append(list, raw)
		return err
	}, `SELECT assessment_id, name, assessment_type, value, error, created_timestamp, last_updated_timestamp, source_type, source_id, span_id, rationale, overrides, valid, assessment_metadata
		FROM assessments WHERE trace_id = ? ORDER BY created_timestamp, assessment_id`, trace)
	return list, err
}

func (d *database) Files(_ context.Context, f Folder) ([]File, error) { return d.disk.folder(f.URI) }

// notImported are the tables whose rows are counted and left.
var notImported = map[string]string{
	"evaluation_datasets": "evaluation datasets", "scorers": "scorers", "webhooks": "webhooks", "endpoints": "gateway endpoints",
	"secrets": "gateway secrets", "issues": "issues", "label_schemas": "label schemas", "review_queues": "review queues", "mcp_servers": "MCP servers",
}

func (d *database) Left(ctx context.Context) (map[string]int, error) {
	left := map[string]int{}
	for table, title := range notImported {
		if !d.has(table) {
			continue
		}
		var n int
		if err := d.db.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil {
			return nil, err
		}
		if n > 0 {
			left[title] = n
		}
	}
	return left, nil
}

func (d *database) Close() error { return d.db.Close() }

var _ io.Closer = (*database)(nil)

// stamp is a time in Unix ms as MLflow's protocol has it.
func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// seconds is a span of ms as MLflow's protocol has it.
func seconds(ms int64) string { return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64) + "s" }

func asMap(tags []Tag) map[string]string {
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		m[t.Key] = t.Value
	}
	return m
}
