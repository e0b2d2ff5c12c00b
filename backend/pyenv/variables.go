package pyenv

import (
	"os"
	"path/filepath"
	"strings"
)

// variables are environment variables by name.
type variables map[string]string

func parseVariables(list []string) variables {
	v := variables{}
	for _, pair := range list {
		if name, value, ok := strings.Cut(pair, "="); ok {
			v[name] = value
		}
	}
	return v
}

func (v variables) list() []string {
	list := make([]string, 0, len(v))
	for name, value := range v {
		list = append(list, name+"="+value)
	}
	return list
}

// setDefault sets the variable if it has no value and one is given.
func (v variables) setDefault(name, value string) {
	if v[name] == "" && value != "" {
		v[name] = value
	}
}

// hidden begin the names that no build may see: a package's own build script
// runs in it. They are our clients' credentials and what leads Python astray.
var hidden = []string{
	"AZURE_", "AZUREML_", "LAPIS_", "MLFLOW_", "MSI_", "IDENTITY_",
	"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONEXECUTABLE", "PYTHONPLATLIBDIR", "__PYVENV_LAUNCHER__",
	"VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYENV_VERSION",
	"PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV", "PIP_PYTHON", "PIP_DRY_RUN", "PIP_REPORT", "PIP_LOG", "PIP_CONSTRAINT",
	"UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT", "UV_TARGET", "UV_PREFIX", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_DRY_RUN", "UV_VENV_", "UV_WORKING_DIR",
}

// forBuild returns the environment of a build: that of the server, and its
// settings for pip in uv's terms, since uv does not read those of pip.
func (v variables) forBuild(fetch bool) variables {
	out := variables{}
	for name, value := range v {
		keep := true
		for _, prefix := range hidden {
			if strings.HasPrefix(name, prefix) && name != "UV_PYTHON_INSTALL_DIR" && name != "UV_PYTHON_INSTALL_MIRROR" {
				keep = false
			}
		}
		if keep {
			out[name] = value
		}
	}
	conf := out.pipConfig()
	first := func(names ...string) string {
		for _, name := range names {
			if value := strings.TrimSpace(out[name]); value != "" {
				return value
			}
		}
		return ""
	}
	or := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	if first("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX") == "" {
		out.setDefault("UV_INDEX_URL", or(first("PIP_INDEX_URL"), conf["index-url"]))
		out.setDefault("UV_EXTRA_INDEX_URL", or(first("PIP_EXTRA_INDEX_URL"), conf["extra-index-url"]))
	}
	out.setDefault("UV_FIND_LINKS", strings.Join(present(or(first("PIP_FIND_LINKS"), conf["find-links"])), ","))
	out.setDefault("UV_INSECURE_HOST", or(first("PIP_TRUSTED_HOST"), conf["trusted-host"]))
	if isTrue(or(first("PIP_NO_INDEX"), conf["no-index"])) {
		out.setDefault("UV_NO_INDEX", "1")
	}
	out.setDefault("UV_HTTP_TIMEOUT", or(first("PIP_DEFAULT_TIMEOUT", "PIP_TIMEOUT"), conf["timeout"]))
	out.setDefault("SSL_CERT_FILE", or(first("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), conf["cert"]))
	// pip takes the best version of all indexes, and conda files are written for pip.
	out.setDefault("UV_INDEX_STRATEGY", "unsafe-best-match")
	out.setDefault("UV_HTTP_RETRIES", "3")
	out.setDefault("PIP_RETRIES", "3")
	if !fetch {
		out["UV_PYTHON_DOWNLOADS"] = "never"
	}
	out["UV_NO_PROGRESS"], out["NO_COLOR"], out["PIP_NO_INPUT"], out["PIP_PROGRESS_BAR"] = "1", "1", "1", "off"
	out["PIP_DISABLE_PIP_VERSION_CHECK"], out["GIT_TERMINAL_PROMPT"], out["PYTHONDONTWRITEBYTECODE"] = "1", "0", "1"
	out["PYTHONUNBUFFERED"] = "1"
	return out
}

// present drops the folders that do not exist: pip passes over them, uv fails.
func present(links string) []string {
	var out []string
	for _, link := range strings.FieldsFunc(links, func(r rune) bool { return r == ' ' || r == '\n' || r == '\t' }) {
		if !strings.Contains(link, "://") {
			if _, err := os.Stat(link); err != nil {
				continue
			}
		}
		out = append(out, link)
	}
	return out
}

func isTrue(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "1", "true", "yes", "on":
		return true
	}
	return false
}

// pipConfig reads pip's own configuration files, of which a company's index
// and CA often are the only record on a machine.
func (v variables) pipConfig() map[string]string {
	conf := map[string]string{}
	if v["PIP_CONFIG_FILE"] == os.DevNull {
		return conf
	}
	files := []string{"/etc/pip.conf"}
	if home := v["HOME"]; home != "" {
		config := v["XDG_CONFIG_HOME"]
		if config == "" {
			config = filepath.Join(home, ".config")
		}
		files = append(files, filepath.Join(home, ".pip", "pip.conf"), filepath.Join(config, "pip", "pip.conf"))
	}
	if named := v["PIP_CONFIG_FILE"]; named != "" {
		files = append(files, named)
	}
	for _, section := range []string{"global", "install"} {
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil || len(text) > 64<<10 {
				continue // as pip does with a file that is not there
			}
			readINI(string(text), section, conf)
		}
	}
	return conf
}

// readINI adds the settings of a section. An indented line goes on with the
// value of the one before.
func readINI(text, section string, into map[string]string) {
	in, key := false, ""
	for _, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';':
		case trimmed[0] == '[':
			in, key = trimmed == "["+section+"]", ""
		case !in:
		case key != "" && (line[0] == ' ' || line[0] == '\t'):
			into[key] = strings.TrimSpace(into[key] + " " + trimmed)
		default:
			name, value, ok := strings.Cut(trimmed, "=")
			if !ok {
				name, value, ok = strings.Cut(trimmed, ":")
			}
			if ok {
				key = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "_", "-")
				into[key] = strings.TrimSpace(value)
			}
		}
	}
}
