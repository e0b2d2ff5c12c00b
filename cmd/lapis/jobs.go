package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"lapis/backend/process"
	"lapis/backend/pyenv"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/dispatch"
	"lapis/ml/tracking"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

func now() time.Time { return time.Now().UTC() }

// newRuntime runs jobs as processes of this machine; each is looked after by a
// process of this very program.
func newRuntime(f *folder, blobs blob.Store, log *slog.Logger) (*process.Runtime, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return process.New(process.Config{Dir: f.path("jobs"), Blobs: blobs, Supervisor: []string{exe, "supervise"}, Log: log,
		Overlay: func(bin, dir string) error {
			_, err := pyenv.Overlay(bin, dir)
			return err
		}})
}

func newBuilder(f *folder) (*pyenv.Builder, error) {
	return pyenv.New(pythonConfig(f))
}

// pythonConfig says where environments are built, and with what.
func pythonConfig(f *folder) pyenv.Config {
	return pyenv.Config{Dir: f.path("envs"), Tools: f.path("tools"), UV: os.Getenv("LAPIS_UV"), Env: os.Environ()}
}

// machine is what this machine has.
func machine() dispatch.Machine {
	gpus, _ := filepath.Glob("/dev/nvidia[0-9]*")
	return dispatch.Machine{Cores: runtime.NumCPU(), Memory: memory(), GPUs: len(gpus)}
}

// memory is the machine's RAM in bytes.
func memory() int64 { return meminfo("MemTotal") }

// freeMemory is what nobody uses of it, or would be given up at once.
func freeMemory() int64 { return meminfo("MemAvailable") }

// meminfo is a figure of the memory in bytes, as the kernel tells it.
func meminfo(name string) int64 {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 1 << 40
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 && fields[0] == name+":" {
			if kb, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				return kb << 10
			}
		}
	}
	return 1 << 40
}

// jobTokenFor is how long a job's token could live; it ends ten minutes after
// its job.
const jobTokenFor = 365 * 24 * time.Hour

// jobVariables are the variables by which code inside a job finds the server,
// in the names that Azure ML and MLflow use. Jobs talk to the loopback address.
func (v *server) jobVariables(site ml.Site, r tracking.Run, experiment string) (map[string]string, []string, error) {
	p := identity.Principal{ID: "job-" + site.GUID + "-" + strings.ToLower(r.ID), Name: "job " + r.ID, Kind: identity.Job,
		Tenant: v.who.Tenant, Workspace: site.ID.String(), Job: r.ID}
	token, err := v.issuer.Issue(p, v.origins.Default(), v.origins.Default(), jobTokenFor)
	if err != nil {
		return nil, nil, err
	}
	plain := v.plainURL()
	secure := "https://localhost:" + v.port
	scope := site.ID.String()
	vars := map[string]string{
		"MLFLOW_TRACKING_URI":                  plain + "/mlflow/v1.0" + scope,
		"MLFLOW_TRACKING_TOKEN":                token,
		"MLFLOW_RUN_ID":                        r.ID,
		"MLFLOW_EXPERIMENT_ID":                 r.Experiment,
		"MLFLOW_EXPERIMENT_NAME":               experiment,
		"AZUREML_RUN_ID":                       r.ID,
		"AZUREML_RUN_TOKEN":                    token,
		"AZUREML_RUN_TOKEN_EXPIRY":             strconv.FormatInt(now().Add(jobTokenFor).Unix(), 10),
		"AZUREML_EXPERIMENT_ID":                r.Experiment,
		"AZUREML_EXPERIMENT_SCOPE":             scope + "/experiments/" + experiment,
		"AZUREML_WORKSPACE_ID":                 site.GUID,
		"AZUREML_WORKSPACE_SCOPE":              scope,
		"AZUREML_ARM_SUBSCRIPTION":             site.ID.Subscription(),
		"AZUREML_ARM_RESOURCEGROUP":            site.ID.Group(),
		"AZUREML_ARM_WORKSPACE_NAME":           site.ID.Name(),
		"AZUREML_ARM_PROJECT_NAME":             experiment,
		"AZUREML_SERVICE_ENDPOINT":             secure,
		"AZUREML_RUN_HISTORY_SERVICE_ENDPOINT": secure,
		"AZUREML_DISCOVERY_SERVICE_ENDPOINT":   secure + "/discovery",
		"AZUREML_CR_NODE_RANK":                 "0",
		"AZUREML_DATASET_HTTP_RETRY_COUNT":     "7",
		"ARM_CLOUD_METADATA_URL":               secure + "/metadata/endpoints?api-version=2019-05-01",
		"AZUREML_CURRENT_CLOUD":                "Lapis",
		"REGISTRY_DISCOVERY_ENDPOINT_URL":      secure + "/",
		"IDENTITY_ENDPOINT":                    secure + "/msi/token",
		"IDENTITY_HEADER":                      token,
		// MLflow would print links to pages of its own server, which are not here.
		"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
	}
	for _, name := range []string{"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"} {
		vars[name] = v.bundle
	}
	for _, name := range []string{"no_proxy", "NO_PROXY"} {
		vars[name] = strings.TrimPrefix(os.Getenv(name)+",localhost,127.0.0.1,::1", ",")
	}
	secrets := []string{"MLFLOW_TRACKING_TOKEN", "AZUREML_RUN_TOKEN", "IDENTITY_HEADER"}
	// A company's proxies and package indexes are the job's as well; they may
	// hold passwords.
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); fromServer.MatchString(name) {
			vars[name] = value
			secrets = append(secrets, name)
		}
	}
	return vars, secrets, nil
}

// fromServer are the variables of the server that its jobs get.
var fromServer = pattern.New(`^(?i:https?_proxy|all_proxy)$|^PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|TRUSTED_HOST|DEFAULT_TIMEOUT|CONFIG_FILE|NO_INDEX)$|^UV_(INDEX|INDEX_URL|DEFAULT_INDEX|EXTRA_INDEX_URL|FIND_LINKS|OFFLINE)$`)

// register stores an asset version that the platform itself makes.
func (v *server) register(ctx context.Context, id resource.ID, properties any) error {
	body, err := json.Marshal(map[string]any{"properties": properties})
	if err != nil {
		return err
	}
	_, err = v.manager.Put(ctx, manager.Request{ID: id, Caller: v.who.platform(), Body: body})
	return err
}

// jobEnded tells when a job ended; zero while it has not.
func jobEnded(resources resource.Store, runs tracking.Store, workspace, name string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	id, err := resource.ParseID(workspace)
	if err != nil {
		return time.Time{}, err
	}
	site, err := ml.SiteOf(ctx, resources, id)
	if err != nil {
		return time.Time{}, err
	}
	r, err := runs.Run(ctx, site.GUID, name)
	if err != nil {
		return time.Time{}, err
	}
	if !r.Job {
		return time.Time{}, fault.NotFound("there is no job %q", name)
	}
	if !r.Status.Terminal() {
		return time.Time{}, nil
	}
	return time.UnixMilli(r.End), nil
}

// links makes links to blobs that carry their own permission.
type links struct{ sas *identity.SAS }

// Container implements asset.Grants.
func (l links) Container(origin string, c blob.Container, permissions string, until time.Time, who string) (plain, signed string) {
	plain = origin + "/blob/" + c.Account + "/" + c.Name
	return plain, plain + "?" + l.sas.Sign(identity.Grant{Account: c.Account, Container: c.Name, Permissions: permissions, Expires: until, Principal: who})
}

// Blob implements historyhttp.Links.
func (l links) Blob(origin string, c blob.Container, key string, until time.Time, who string) string {
	return l.blob(origin, c, key, "r", until, who)
}

// blob is the address of one blob with permissions of "rw" on it.
func (l links) blob(origin string, c blob.Container, key, permissions string, until time.Time, who string) string {
	return origin + "/blob/" + c.Account + "/" + c.Name + "/" + escapeKey(key) + "?" +
		l.sas.Sign(identity.Grant{Account: c.Account, Container: c.Name, Prefix: key, Blob: true, Permissions: permissions, Expires: until, Principal: who})
}

// escapeKey writes a blob's key as a path.
func escapeKey(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}
