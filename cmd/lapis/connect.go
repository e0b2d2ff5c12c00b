package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lapis/edge"
	"lapis/edge/loginhttp"
	"lapis/fault"
	"lapis/resource/identity"
)

func connectCommand() *cobra.Command {
	var o connectOptions
	cmd := &cobra.Command{
		Use:     "connect",
		Short:   "Print what points unmodified Azure ML clients at the server",
		GroupID: groupServer,
		Long: `Print the environment variables that point unmodified clients at the server:
azure-ai-ml, azure-identity, mlflow, az. Old values are kept in LAPIS_OLD_*, and
--unset gives them back. Only the owner of the data folder may do this: the
administrator's secret is among the variables.`,
		Example: `  eval "$(lapis connect)"
  eval "$(lapis connect --unset)"
  lapis connect --config                 also write .azureml/config.json
  lapis connect --shell powershell | Out-String | Invoke-Expression
  lapis connect --shell fish | source`,
		Args: noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return connect(o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "data folder of the server")
	f.StringVar(&o.url, "url", "", "name of the server to use, of those it was given by `lapis up --url`")
	f.Lookup("url").Usage = "name of the server to use, of those that `lapis up --url` gave it"
	f.StringVar(&o.shell, "shell", "sh", "sh, fish or powershell")
	f.StringVarP(&o.output, "output", "o", "", "json: print an object in place of a script")
	f.StringVarP(&o.group, "resource-group", "g", "", "resource group to name (default the one of the first start)")
	f.StringVarP(&o.workspace, "workspace-name", "w", "", "workspace to name (default the one of the first start)")
	f.BoolVar(&o.unset, "unset", false, "give back the old values")
	f.BoolVar(&o.config, "config", false, "write .azureml/config.json in this folder, for MLClient.from_config()")
	f.BoolVar(&o.force, "force", false, "with --config, replace a file that names another workspace")
	return cmd
}

type connectOptions struct {
	data, url, shell, output, group, workspace string
	unset, config, force                       bool
}

// variable is one line of what connect prints. Without a value it is cleared.
type variable struct {
	name, value string
	clear       bool
}

const (
	oldPrefix = "LAPIS_OLD_"

	// connectedName holds the names of the variables that are ours in this
	// shell: what they were before stands in LAPIS_OLD_*.
	connectedName = "LAPIS_CONNECTED"
)

func connect(o connectOptions, out, errs io.Writer) error {
	script, ok := scripts[o.shell]
	if !ok {
		return fault.Invalid("--shell %q is not known; take sh, fish or powershell.", o.shell)
	}
	if o.output != "" && o.output != "json" {
		return fault.Invalid("--output %q is not known; take json, or leave it out for a script.", o.output)
	}
	env := environment{os.LookupEnv}
	if o.unset {
		vars := env.restore()
		if len(vars) == 0 {
			fmt.Fprintln(errs, "This shell is not connected.")
		}
		return write(out, o, script, vars)
	}

	f, err := openFolder(o.data)
	if err != nil {
		return err
	}
	if err := f.private(); err != nil {
		return err
	}
	vars, w, err := f.connection(o, env)
	if err != nil {
		return err
	}
	if pid, err := f.serverPid(); err == nil && pid == 0 {
		fmt.Fprintf(errs, "NOTE: no server is running on %s; start it with: lapis up --data %s\n", f.dir, quote(f.dir))
	}
	if o.config {
		if err := writeConfig(w, o.force, errs); err != nil {
			return err
		}
	}
	return write(out, o, script, env.save(vars))
}

// connection is what the clients need, in a fixed order.
func (f *folder) connection(o connectOptions, env environment) ([]variable, who, error) {
	w, err := f.loadIdentity()
	if err != nil {
		return nil, w, err
	}
	if o.group != "" {
		w.Group = o.group
	}
	if o.workspace != "" {
		w.Workspace = o.workspace
	}
	info, err := f.readServer()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, w, fault.NotFound("The server on %s has not been ready yet. Start it with: lapis up --data %s", f.dir, quote(f.dir))
	}
	if err != nil {
		return nil, w, err
	}
	base, mlflow := info.URL, info.Plain
	if o.url != "" {
		if base, mlflow, err = info.under(o.url); err != nil {
			return nil, w, err
		}
	}
	secret, err := f.adminSecret()
	if err != nil {
		return nil, w, err
	}
	bundle, err := f.bundle(env)
	if err != nil {
		return nil, w, err
	}
	token, err := f.longToken(env, w)
	if err != nil {
		return nil, w, err
	}
	host := base
	if u, err := url.Parse(base); err == nil {
		host = u.Hostname()
	}
	vars := []variable{
		{name: "ARM_CLOUD_METADATA_URL", value: base + "/metadata/endpoints?api-version=2019-05-01"},
		{name: "AZUREML_CURRENT_CLOUD", value: loginhttp.CloudName},
		{name: "REGISTRY_DISCOVERY_ENDPOINT_URL", value: base + "/"},
		{name: "AZURE_AUTHORITY_HOST", value: base + "/adfs"},
		{name: "AZURE_TENANT_ID", value: w.Tenant},
		{name: "AZURE_CLIENT_ID", value: w.Admin.Client},
		{name: "AZURE_CLIENT_SECRET", value: secret},
		{name: "AZUREML_ARM_SUBSCRIPTION", value: w.Subscription},
		{name: "AZUREML_ARM_RESOURCEGROUP", value: w.Group},
		{name: "AZUREML_ARM_WORKSPACE_NAME", value: w.Workspace},
		// The SDK's own polling slows down to 48 s.
		{name: "AZUREML_RUN_POLLING_INTERVAL_MAX", value: "2"},
		{name: "MLFLOW_TRACKING_URI", value: mlflow},
		{name: "MLFLOW_TRACKING_TOKEN", value: token},
		{name: "REQUESTS_CA_BUNDLE", value: bundle},
		{name: "CURL_CA_BUNDLE", value: bundle},
		{name: "SSL_CERT_FILE", value: bundle},
		{name: "NO_PROXY", value: env.noProxy("NO_PROXY", "no_proxy", host)},
		{name: "no_proxy", value: env.noProxy("no_proxy", "NO_PROXY", host)},
		{name: "LAPIS_DATA", value: f.dir},
	}
	// These would lead the clients elsewhere.
	for _, name := range []string{"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AUTH", "MLFLOW_REGISTRY_URI", "AZURE_TOKEN_CREDENTIALS"} {
		if _, set := env.before(name); set {
			vars = append(vars, variable{name: name, clear: true})
		}
	}
	return vars, w, nil
}

// under checks an address that the user chose, and tells where MLflow goes then.
func (s serverInfo) under(chosen string) (base, mlflow string, err error) {
	origins, err := edge.NewOrigins(s.URLs, s.Port)
	if err != nil {
		return "", "", err
	}
	u, err := url.Parse(strings.TrimSuffix(chosen, "/"))
	if err != nil || u.Scheme != "https" || u.Path != "" || !origins.Known(u.Host) {
		return "", "", fault.Invalid("--url %q is not a name of the server, which is %s. To give it that name, start it with `lapis up --url %s`.", chosen, s.URL, chosen)
	}
	base = "https://" + strings.ToLower(u.Host)
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return base, s.Plain, nil
	}
	return base, base, nil
}

// longToken is the token for MLflow: the one that this shell has, if it is
// good for a day more, so that to connect twice changes nothing.
func (f *folder) longToken(env environment, w who) (string, error) {
	files, now := tokenFiles{f}, time.Now()
	if word, ok := env.get("MLFLOW_TRACKING_TOKEN"); ok {
		if t, err := files.Find(identity.LongTokenID(word)); err == nil && t.Expires.After(now.Add(24*time.Hour)) && t.Principal == w.admin() {
			return word, nil
		}
	}
	if _, err := files.all(now); err != nil { // sweeps what has expired
		return "", err
	}
	word, stored := identity.NewLongToken(w.admin(), "connect", now)
	return word, files.put(stored)
}

// environment reads the variables of this process.
type environment struct{ get func(string) (string, bool) }

// ours tells which variables are Lapis's in this shell already.
func (e environment) ours() []string {
	names, _ := e.get(connectedName)
	return strings.Fields(names)
}

// before is the value that a variable had before the shell was connected.
func (e environment) before(name string) (string, bool) {
	if slices.Contains(e.ours(), name) {
		return e.get(oldPrefix + name)
	}
	return e.get(name)
}

// save adds what keeps the old values.
func (e environment) save(vars []variable) []variable {
	names := e.ours()
	var olds []variable
	for _, v := range vars {
		if !slices.Contains(names, v.name) {
			names = append(names, v.name)
		}
		if old, ok := e.before(v.name); ok {
			olds = append(olds, variable{name: oldPrefix + v.name, value: old})
		}
	}
	// What an earlier connection changed and this one does not need.
	for _, name := range e.ours() {
		if slices.ContainsFunc(vars, func(v variable) bool { return v.name == name }) {
			continue
		}
		if old, ok := e.before(name); ok {
			vars = append(vars, variable{name: name, value: old})
			olds = append(olds, variable{name: oldPrefix + name, value: old})
		} else {
			vars = append(vars, variable{name: name, clear: true})
		}
	}
	return slices.Concat(vars, olds, []variable{{name: connectedName, value: strings.Join(names, " ")}})
}

// restore is what --unset prints.
func (e environment) restore() []variable {
	var vars, olds []variable
	for _, name := range e.ours() {
		old, ok := e.before(name)
		vars = append(vars, variable{name: name, value: old, clear: !ok})
		if ok {
			olds = append(olds, variable{name: oldPrefix + name, clear: true})
		}
	}
	if vars == nil {
		return nil
	}
	return slices.Concat(vars, olds, []variable{{name: connectedName, clear: true}})
}

// noProxy is the list of hosts that no proxy is asked for, ours among them.
func (e environment) noProxy(name, other, host string) string {
	list, _ := e.before(name)
	if list == "" {
		list, _ = e.before(other)
	}
	if strings.TrimSpace(list) == "*" {
		return list
	}
	hosts := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	for _, h := range []string{host, "localhost", "127.0.0.1"} {
		if !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return strings.Join(hosts, ",")
}

// scripts are the shells' ways to set and clear a variable.
var scripts = map[string]func(variable) string{
	"sh": func(v variable) string {
		if v.clear {
			return "unset " + v.name
		}
		return "export " + v.name + "='" + strings.ReplaceAll(v.value, "'", `'\''`) + "'"
	},
	"fish": func(v variable) string {
		if v.clear {
			return "set -e " + v.name
		}
		return "set -gx " + v.name + " '" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(v.value) + "'"
	},
	"powershell": func(v variable) string {
		if v.clear {
			return "Remove-Item Env:" + v.name + " -ErrorAction SilentlyContinue"
		}
		// PowerShell takes typographic quotes for quotes, too.
		return "$env:" + v.name + " = '" + strings.NewReplacer("'", "''", "‘", "‘‘", "’", "’’", "‚", "‚‚", "‛", "‛‛").Replace(v.value) + "'"
	},
}

func write(out io.Writer, o connectOptions, script func(variable) string, vars []variable) error {
	if o.output == "json" {
		values := map[string]*string{}
		for _, v := range vars {
			if v.clear {
				values[v.name] = nil
			} else {
				values[v.name] = &v.value
			}
		}
		b, _ := json.MarshalIndent(values, "", "  ")
		_, err := fmt.Fprintf(out, "%s\n", b)
		return err
	}
	var b strings.Builder
	for _, v := range vars {
		b.WriteString(script(v))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// writeConfig writes what MLClient.from_config() reads.
func writeConfig(w who, force bool, errs io.Writer) error {
	path := filepath.Join(".azureml", "config.json")
	want, _ := json.MarshalIndent(map[string]string{
		"subscription_id": w.Subscription, "resource_group": w.Group, "workspace_name": w.Workspace,
	}, "", "  ")
	want = append(want, '\n')
	if old, err := os.ReadFile(path); err == nil && !force && string(old) != string(want) {
		return fault.Conflicts("%s names another workspace already. Replace it with --force, or run this in another folder.", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	fmt.Fprintf(errs, "Wrote %s.\n", path)
	return nil
}
