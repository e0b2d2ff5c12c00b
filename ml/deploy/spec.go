package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/blob"
	"lapis/ml/compute"
	"lapis/ml/data"
	"lapis/ml/endpoint"
	"lapis/ml/environment"
	"lapis/ml/serving"
	"lapis/resource"
)

// Spec is what a deployment comes to once all that it names has been looked up.
// It is kept with the deployment, so that a generation can be started again as
// it was.
type Spec struct {
	Instance
	Requests
}

// Instance is the part of a Spec that its instances are made of: when it
// changes, new ones take their place.
type Instance struct {
	Runtime     string             `json:"runtime"` // serving.Native, serving.Python, serving.Program, serving.Image
	Flavor      string             `json:"flavor,omitempty"`
	Model       *Model             `json:"model,omitempty"`
	Code        *compute.Tree      `json:"code,omitempty"`
	Script      string             `json:"script,omitempty"`
	Recipe      environment.Recipe `json:"recipe,omitzero"`
	Image       string             `json:"image,omitempty"`   // named by the environment; pulled by serving.Image alone
	Build       *serving.Build     `json:"build,omitempty"`   // of the image, where it has a Dockerfile
	Command     string             `json:"command,omitempty"` // of a program
	Port        int                `json:"port,omitempty"`    // of a program: that its routes name
	Probe       string             `json:"probe,omitempty"`   // of a program: path that answers when it is ready
	Variables   map[string]string  `json:"variables,omitempty"`
	Concurrency int                `json:"concurrency"`
	Kept        map[string]float64 `json:"kept,omitempty"` // collections that instances write: the share that is kept
	Batch       *serving.Batch     `json:"batch,omitempty"`
	Sample      *Sample            `json:"sample,omitempty"`
}

// Requests is the part of a Spec that the gateway goes by.
type Requests struct {
	ScoringPath  string           `json:"scoringPath"`
	Timeout      time.Duration    `json:"timeout"`
	QueueWait    time.Duration    `json:"queueWait,omitempty"`
	Collect      *serving.Collect `json:"collect,omitempty"`
	Patience     time.Duration    `json:"patience"`       // how long instances may take to be ready
	Idle         time.Duration    `json:"idle,omitempty"` // without requests, after which the instances are stopped; 0: never
	MinInstances int              `json:"minInstances"`
}

// Model is a model version and where it lies.
type Model struct {
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Type    string       `json:"type"` // custom_model, mlflow_model, triton_model
	Tree    compute.Tree `json:"tree"`
	URL     string       `json:"url,omitempty"`
	File    bool         `json:"file,omitempty"`
	Unnamed bool         `json:"unnamed,omitempty"` // it was given with the deployment, and its name made up
	Base    string       `json:"base"`              // last name of its path
	Mount   string       `json:"mount"`             // folder that holds Base, below inputs/ of the task

	mlmodel *mlmodel // once it was read
}

// id is what requests call the model: NAME:VERSION, and one that nobody has named
// by its file.
func (m *Model) id() string {
	if m.Unnamed {
		if stem := strings.TrimSuffix(m.Base, path.Ext(m.Base)); stem != "" {
			return stem + ":1"
		}
	}
	return m.Name + ":" + m.Version
}

// Sample is a request that comes with the model and that it must answer before
// it is called ready.
type Sample struct {
	Target string          `json:"target"`
	Body   json.RawMessage `json:"body"`
}

// The paths at which Azure ML mounts models, and how instances are answered.
const (
	modelRoot = "/var/azureml-app/azureml-models"
	appRoot   = "/var/azureml-app/"
	scorePath = "/score"
)

// Properties of a deployment that say how it is served.
const (
	propTier      = "serving.tier"
	propCommand   = "serving.command"
	propBatchSize = "serving.batch.max_size"
	propBatchWait = "serving.batch.max_delay_ms"
	propIdle      = "serving.idle_seconds"
	propMin       = "serving.min_instances"
)

// idleDefault is how long a deployment that may have no instances keeps them
// without a request.
const idleDefault = 60 * time.Second

// maxRead bounds the files of a model that are read to see what it is, in bytes.
const maxRead = 4 << 20

// generation names what the instances are made of: the same for the same
// deployment and the same Instance.
func generation(r resource.Resource, s Spec) string {
	raw, err := json.Marshal(s.Instance)
	if err != nil {
		panic(err) // it came from JSON
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%s", r.ID.Key(), r.Born, raw))
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:8]))
}

// wanted is a deployment as its properties say, with what they refer to.
type wanted struct {
	site       ml.Site
	deployment endpoint.Deployment
	sku        endpoint.Sku
}

func read(ctx context.Context, store resource.Store, r resource.Resource) (wanted, error) {
	var w wanted
	if err := json.Unmarshal(r.Properties, &w.deployment); err != nil {
		return w, resource.WrongJSON(err, "properties")
	}
	if len(r.SKU) > 0 {
		if err := json.Unmarshal(r.SKU, &w.sku); err != nil {
			return w, resource.WrongJSON(err, "sku")
		}
	} else {
		w.sku.Capacity = 1
	}
	var err error
	w.site, err = ml.SiteOf(ctx, store, r.ID)
	return w, err
}

// resolve looks up all that a deployment names.
func (d *Deployer) resolve(ctx context.Context, w wanted) (Spec, error) {
	p := w.deployment
	var s Spec
	s.Variables = p.Variables
	s.Concurrency = max(p.Requests.MaxConcurrent, 1)
	s.Kept = shares(p.Collector)
	s.ScoringPath = scorePath
	if err := s.Requests.read(p); err != nil {
		return s, err
	}
	var err error
	if p.Model != "" {
		if s.Model, err = d.model(ctx, w); err != nil {
			return s, err
		}
	}
	if c := p.CodeConfiguration; c != nil && c.CodeID != "" {
		at, err := data.LocateCode(ctx, d.Resources, w.site.ID, c.CodeID)
		if err != nil {
			return s, err
		}
		s.Code = &compute.Tree{Container: at.Container, Prefix: blob.Folder(at.Path)}
		s.Script = c.ScoringScript
	}
	var env environment.Wanted
	var inference inference
	if p.EnvironmentID != "" {
		r, err := asset.Refer(ctx, d.Resources, w.site.ID, "environments", p.EnvironmentID, "environmentId")
		if err != nil {
			return s, err
		}
		if env, err = environment.Want(r.Properties); err != nil {
			return s, err
		}
		if err := json.Unmarshal(r.Properties, &inference); err != nil {
			return s, resource.WrongJSON(err, "environment")
		}
	}
	if err := d.choose(ctx, w, &s, inference); err != nil {
		return s, err
	}
	switch {
	case s.Runtime == serving.Native, s.Runtime == serving.Image:
	case env.Container != "" && s.Runtime != serving.Program:
		return s, fault.Invalid("The environment cannot be made: %s.", env.Container).With("ImageBuildFailure").At("properties.environmentId")
	case p.EnvironmentID != "":
		s.Recipe, s.Image = env.Recipe, env.Image
	case s.Model != nil && s.Model.Type == "mlflow_model":
		if s.Recipe, err = d.modelRecipe(ctx, *s.Model); err != nil {
			return s, err
		}
	}
	if s.Model != nil && s.Model.Type == "mlflow_model" && s.Code == nil && !ownServer(s.Runtime) {
		s.Sample = d.modelSample(ctx, s.Model)
	}
	if s.Batch, err = batch(p.Properties); err != nil {
		return s, err
	}
	return s, nil
}

// read takes what the gateway goes by from the properties.
func (q *Requests) read(p endpoint.Deployment) error {
	var err error
	duration := func(field, text string, otherwise time.Duration) time.Duration {
		if text == "" || err != nil {
			return otherwise
		}
		var d time.Duration
		if d, err = compute.ParseDuration(text); err != nil {
			err = fault.Invalid("'properties.%s' %v", field, err).With("ValidationError").At("properties." + field)
		}
		return d
	}
	q.Timeout = duration("requestSettings.requestTimeout", p.Requests.Timeout, 5*time.Second)
	if strings.EqualFold(p.ComputeType, "Kubernetes") {
		q.QueueWait = duration("requestSettings.maxQueueWait", p.Requests.MaxQueueWait, 500*time.Millisecond)
	}
	q.Patience = duration("readinessProbe.initialDelay", p.Readiness.InitialDelay, 10*time.Second) +
		time.Duration(max(p.Readiness.FailureThreshold, 30))*duration("readinessProbe.period", p.Readiness.Period, 10*time.Second)
	if live := duration("livenessProbe.initialDelay", p.Liveness.InitialDelay, 10*time.Second) +
		time.Duration(max(p.Liveness.FailureThreshold, 30))*duration("livenessProbe.period", p.Liveness.Period, 10*time.Second); live > q.Patience {
		q.Patience = live
	}
	if err != nil {
		return err
	}
	q.MinInstances = 1
	if strings.EqualFold(p.Scale.Type, "TargetUtilization") {
		q.MinInstances = p.Scale.MinInstances
	}
	if text := p.Properties[propMin]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return fault.Invalid("'properties.properties[%q]' is %q; it must be a number of instances", propMin, text).With("ValidationError").At("properties.properties")
		}
		q.MinInstances = n
	}
	if q.MinInstances == 0 {
		q.Idle = idleDefault
	}
	if text := p.Properties[propIdle]; text != "" && q.MinInstances == 0 {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || n <= 0 || n > 86400 {
			return fault.Invalid("'properties.properties[%q]' is %q; it must be a number of seconds, at most 86400", propIdle, text).With("ValidationError").At("properties.properties")
		}
		q.Idle = time.Duration(n * float64(time.Second))
	}
	q.Collect = collect(p.Collector)
	return nil
}

// collect are the payloads that the gateway keeps; nil for none.
func collect(c *endpoint.Collector) *serving.Collect {
	if c == nil {
		return nil
	}
	out := serving.Collect{Rate: c.SamplingRate, Rolling: c.RollingRate, Headers: c.RequestLogging.CaptureHeaders}
	if out.Rate == 0 {
		out.Rate = 1
	}
	if out.Rolling == "" {
		out.Rolling = "Hour"
	}
	for name, of := range c.Collections {
		on := !strings.EqualFold(of.DataCollectionMode, "Disabled")
		switch strings.ToLower(name) {
		case "request":
			out.Request = on
		case "response":
			out.Response = on
		}
	}
	if !out.Request && !out.Response {
		return nil
	}
	return &out
}

// shares are the collections that instances write, with the share of the events
// that is kept; nil for none.
func shares(c *endpoint.Collector) map[string]float64 {
	if c == nil {
		return nil
	}
	var out map[string]float64
	for name, of := range c.Collections {
		name = strings.ToLower(name)
		if name == "request" || name == "response" || strings.EqualFold(of.DataCollectionMode, "Disabled") {
			continue
		}
		share := of.SamplingRate
		if share == 0 {
			share = c.SamplingRate
		}
		if share == 0 {
			share = 1
		}
		if out == nil {
			out = map[string]float64{}
		}
		out[name] = share
	}
	return out
}

func batch(p map[string]string) (*serving.Batch, error) {
	if p[propBatchSize] == "" {
		return nil, nil
	}
	size, err := strconv.Atoi(p[propBatchSize])
	if err != nil || size < 1 || size > 4096 {
		return nil, fault.Invalid("'properties.properties[%q]' is %q; it must be a number of rows, at most 4096", propBatchSize, p[propBatchSize]).With("ValidationError").At("properties.properties")
	}
	delay := 2.0
	if text := p[propBatchWait]; text != "" {
		if delay, err = strconv.ParseFloat(text, 64); err != nil || delay < 0 || delay > 1000 {
			return nil, fault.Invalid("'properties.properties[%q]' is %q; it must be a number of milliseconds, at most 1000", propBatchWait, text).With("ValidationError").At("properties.properties")
		}
	}
	return &serving.Batch{MaxSize: size, MaxDelay: time.Duration(delay * float64(time.Millisecond))}, nil
}

// inference is the part of an environment that tells of a server of its own.
type inference struct {
	Config inferenceConfig `json:"inferenceConfig"`
	Image  string          `json:"image"`
	Conda  string          `json:"condaFile"`
	Build  *struct {
		ContextURI string `json:"contextUri"`
		Dockerfile string `json:"dockerfilePath"`
	} `json:"build"`
}

// ownServer tells whether a runtime is a server of the user's own.
func ownServer(runtime string) bool { return runtime == serving.Program || runtime == serving.Image }

type inferenceConfig struct {
	Liveness  *route `json:"livenessRoute"`
	Readiness *route `json:"readinessRoute"`
	Scoring   *route `json:"scoringRoute"`
}

type route struct {
	Port int    `json:"port"`
	Path string `json:"path"`
}

// choose decides what runs the deployment.
func (d *Deployer) choose(ctx context.Context, w wanted, s *Spec, env inference) error {
	p, routes := w.deployment, env.Config
	tier := strings.ToLower(p.Properties[propTier])
	command := p.Properties[propCommand]
	if command == "" {
		command = p.Variables["SERVING_COMMAND"]
	}
	native, err := d.nativeFlavor(ctx, s.Model)
	if err != nil {
		return err
	}
	if command == "" && routes.Scoring != nil && s.Model != nil && s.Model.Type == "triton_model" && native != "" {
		routes = inferenceConfig{}
	}
	switch {
	case tier != "" && tier != "native" && tier != "python" && tier != "container":
		return fault.Invalid("'properties.properties[%q]' is %q; it must be native, python or container", propTier, tier).With("ValidationError").At("properties.properties")
	case tier == "container" && command == "":
		return d.image(ctx, w, s, env)
	case command != "" && tier != "native" && tier != "python":
		program(s, command, routes)
		return nil
	case tier != "python" && native != "" && (s.Code == nil || tier == "native"):
		s.Runtime, s.Flavor, s.Code = serving.Native, native, nil
		return nil
	case tier == "native":
		what := "The deployment has no model"
		if s.Model != nil {
			what = fmt.Sprintf("The model '%s:%s' is none of ONNX, LightGBM and XGBoost", s.Model.Name, s.Model.Version)
		}
		return fault.Invalid("%s, which native serving needs; leave %q out.", what, propTier).With("BadArgument").At("properties.properties")
	case env.Build != nil && tier != "python":
		return d.image(ctx, w, s, env)
	case s.Code != nil && s.Script != "":
		s.Runtime, s.Flavor = serving.Python, "script"
		return nil
	case s.Model != nil && s.Model.Type == "mlflow_model":
		s.Runtime, s.Flavor = serving.Python, "mlflow"
		return nil
	case routes.Scoring != nil:
		return d.image(ctx, w, s, env)
	case s.Model != nil && s.Model.Type == "triton_model":
		return fault.Invalid("The model '%s:%s' is no model repository with ONNX models (models/NAME/VERSION/model.onnx), which alone are served without a container engine.", s.Model.Name, s.Model.Version).With("BadArgument").At("properties.model")
	}
	if s.Model != nil {
		return fault.Invalid("The model '%s:%s' is none that is served by itself (ONNX, LightGBM, XGBoost, MLflow): give 'codeConfiguration' with a scoring script, or properties: %s.", s.Model.Name, s.Model.Version, propCommand).With("BadArgument").At("properties.codeConfiguration")
	}
	return fault.Invalid("The deployment has nothing that answers requests: give 'codeConfiguration' with a scoring script, an MLflow model, an ONNX, LightGBM or XGBoost model, or properties: %s.", propCommand).With("BadArgument").At("properties.codeConfiguration")
}

// program is a server of the user's own.
func program(s *Spec, command string, routes inferenceConfig) {
	s.Runtime, s.Command = serving.Program, command
	s.answersAt(routes)
}

// answersAt takes from the routes of an environment where its server answers.
// What they leave out is as with Azure's own server.
func (s *Spec) answersAt(routes inferenceConfig) {
	s.Port, s.Probe = 5001, "/"
	if r := routes.Scoring; r != nil {
		s.Port, s.ScoringPath = r.Port, "/"+strings.TrimPrefix(r.Path, "/")
	}
	if r := routes.Readiness; r != nil {
		s.Probe = "/" + strings.TrimPrefix(r.Path, "/")
	} else if r := routes.Liveness; r != nil {
		s.Probe = "/" + strings.TrimPrefix(r.Path, "/")
	}
}

func (d *Deployer) model(ctx context.Context, w wanted) (*Model, error) {
	r, err := asset.Refer(ctx, d.Resources, w.site.ID, "models", w.deployment.Model, "model")
	if err != nil {
		return nil, err
	}
	p, err := resource.ParseDocument(r.Properties)
	if err != nil {
		return nil, err
	}
	at, err := data.Locate(ctx, d.Resources, r.ID, p.Text("modelUri"))
	if err != nil {
		return nil, err
	}
	m := &Model{Name: r.ID.Parent().Name(), Version: r.ID.Name(), Type: p.Text("modelType"), URL: at.URL,
		Tree: compute.Tree{Container: at.Container, Prefix: at.Path}}
	_ = json.Unmarshal(p["isAnonymous"], &m.Unnamed) // nothing else than true makes it so
	mount := w.deployment.ModelMountPath
	if mount == "" {
		mount = modelRoot
	}
	m.Mount = strings.TrimPrefix(path.Join("/", mount, m.Name, m.Version), "/")
	if m.URL != "" {
		m.File, m.Base = true, path.Base(strings.SplitN(m.URL, "?", 2)[0])
		return m, nil
	}
	m.Base = path.Base(strings.TrimSuffix(at.Path, "/"))
	if !strings.HasSuffix(at.Path, "/") {
		if _, err := d.Blobs.Stat(ctx, at.Container, at.Path); err == nil {
			m.File = true
			return m, nil
		} else if !fault.Is(err, fault.Missing) {
			return nil, err
		}
	}
	m.Tree.Prefix = blob.Folder(at.Path)
	if m.Base == "." || m.Base == "/" || m.Base == "" {
		m.Base = m.Name
	}
	return m, nil
}

// nativeFlavor is the flavor that the native runner serves the model as; "" if
// it does not.
func (d *Deployer) nativeFlavor(ctx context.Context, m *Model) (string, error) {
	if m == nil || m.URL != "" {
		return "", nil
	}
	if m.File {
		return d.fileFlavor(ctx, m.Tree)
	}
	page, err := d.Blobs.List(ctx, m.Tree.Container, blob.Query{Prefix: m.Tree.Prefix, Limit: 200})
	if err != nil {
		return "", err
	}
	switch m.Type {
	case "triton_model":
		for _, b := range page.Blobs {
			if strings.HasSuffix(b.Key, "/model.onnx") {
				return "triton", nil
			}
		}
		return "", nil
	case "mlflow_model":
		return d.mlflowFlavor(ctx, m)
	}
	// A folder with one model in it is that model.
	found, flavor := "", ""
	for _, b := range page.Blobs {
		f, err := d.fileFlavor(ctx, compute.Tree{Container: m.Tree.Container, Prefix: b.Key})
		if err != nil {
			return "", err
		}
		if f != "" {
			if found != "" {
				return "", nil
			}
			found, flavor = b.Key, f
		}
	}
	return flavor, nil
}

// headSize is how much of a file is read to see what it is, in bytes.
const headSize = 512

// fileFlavor tells from a file's name and its beginning what model it holds.
func (d *Deployer) fileFlavor(ctx context.Context, file compute.Tree) (string, error) {
	ext := strings.ToLower(path.Ext(file.Prefix))
	switch ext {
	case ".onnx":
		return "onnx", nil
	case ".lgb":
		return "lightgbm", nil // one that is none is refused by who reads it all
	case ".ubj", ".json", ".xgb", ".txt", ".model":
	default:
		return "", nil
	}
	r, _, err := d.Blobs.Open(ctx, file.Container, file.Prefix, 0, headSize)
	if err != nil {
		return "", err
	}
	defer r.Close()
	head, err := io.ReadAll(io.LimitReader(r, headSize))
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(head))
	switch {
	case strings.HasPrefix(text, "tree\n") || strings.HasPrefix(text, "tree\r\n"):
		return "lightgbm", nil
	case strings.HasPrefix(text, "{") && strings.Contains(text, `"learner"`):
		return "xgboost", nil
	case ext == ".ubj" && strings.HasPrefix(text, "{") && strings.Contains(text, "learner"):
		return "xgboost", nil
	}
	return "", nil
}
