// Package client speaks to a Lapis server through its public HTTP APIs: those
// of Azure Resource Manager, run history, Blob storage and MLflow.
package client

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"lapis/client/spec"
	"lapis/fault"
)

// Config says where a server is, who is asking, and which workspace is meant.
type Config struct {
	URL string // https://localhost:7443
	CA  string // a PEM file with the authorities to trust; "" for the system's

	Tenant       string
	ClientID     string
	ClientSecret string

	spec.Target
}

// FromEnvironment reads the variables that `lapis connect` prints. The second
// value is false when they name no server.
func FromEnvironment(get func(string) string) (Config, bool) {
	metadata := get("ARM_CLOUD_METADATA_URL")
	u, err := url.Parse(metadata)
	if metadata == "" || err != nil || u.Host == "" {
		return Config{}, false
	}
	c := Config{
		URL:          u.Scheme + "://" + u.Host,
		CA:           get("REQUESTS_CA_BUNDLE"),
		Tenant:       get("AZURE_TENANT_ID"),
		ClientID:     get("AZURE_CLIENT_ID"),
		ClientSecret: get("AZURE_CLIENT_SECRET"),
		Target: spec.Target{
			Subscription:  get("AZUREML_ARM_SUBSCRIPTION"),
			ResourceGroup: get("AZUREML_ARM_RESOURCEGROUP"),
			Workspace:     get("AZUREML_ARM_WORKSPACE_NAME"),
		},
	}
	if c.CA == "" {
		c.CA = get("SSL_CERT_FILE")
	}
	return c, c.Tenant != "" && c.ClientID != "" && c.ClientSecret != ""
}

// WorkspaceFile finds .azureml/config.json, or config.json, in dir or above
// it, and reads the workspace it names. A folder without one gives the zero
// Target.
func WorkspaceFile(dir string) (spec.Target, error) {
	for {
		for _, name := range []string{filepath.Join(".azureml", "config.json"), "config.json"} {
			file := filepath.Join(dir, name)
			data, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return spec.Target{}, fault.Invalid("%s cannot be read: %v", file, err)
			}
			var c struct {
				Subscription string `json:"subscription_id"`
				Group        string `json:"resource_group"`
				Workspace    string `json:"workspace_name"`
			}
			if err := json.Unmarshal(data, &c); err != nil {
				if name == "config.json" {
					continue // some other program's
				}
				return spec.Target{}, fault.Invalid("%s is not JSON: %v. Write it anew with `lapis connect --config`.", file, err)
			}
			if c.Subscription == "" && c.Group == "" && c.Workspace == "" {
				continue
			}
			return spec.Target{Subscription: c.Subscription, ResourceGroup: c.Group, Workspace: c.Workspace}, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return spec.Target{}, nil
		}
		dir = parent
	}
}

// Over gives t with the parts that other names put over it.
func Over(t, other spec.Target) spec.Target {
	if other.Subscription != "" {
		t.Subscription = other.Subscription
	}
	if other.ResourceGroup != "" {
		t.ResourceGroup = other.ResourceGroup
	}
	if other.Workspace != "" {
		t.Workspace = other.Workspace
	}
	return t
}

// check names what is missing.
func (c Config) check() error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fault.Invalid("%q is not the address of a server; it reads https://HOST:PORT.", c.URL)
	}
	if strings.TrimSuffix(c.URL, "/") != c.URL {
		return fault.Invalid("%q: the address of a server has no path.", c.URL)
	}
	if c.Tenant == "" || c.ClientID == "" || c.ClientSecret == "" {
		return fault.Unknown("The tenant, client id or client secret is missing. Run: eval \"$(lapis connect)\"")
	}
	return nil
}
