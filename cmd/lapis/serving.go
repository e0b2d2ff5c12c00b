package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lapis/backend/container"
	"lapis/backend/disk"
	"lapis/backend/instances"
	"lapis/backend/process"
	"lapis/driver"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/compute"
	"lapis/ml/connection"
	"lapis/ml/deploy"
	mlenvironment "lapis/ml/environment"
	"lapis/ml/serving"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/manager"
)

// newDeployer makes what brings deployments up. Their groups run as tasks of a
// runtime of their own: what jobs do is nothing to them.
func (v *server) newDeployer(resources resource.Store, blobs blob.Store, builder mlenvironment.Builder) (*deploy.Deployer, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	groups, err := process.New(process.Config{Dir: v.folder.groupsFolder(), Blobs: blobs, Supervisor: []string{exe, "supervise"}, Log: v.log})
	if err != nil {
		return nil, err
	}
	v.closers = append(v.closers, groups)
	sockets, err := socketFolder(v.folder.path("serving", "s"))
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKIXPublicKey(v.keys.signing.Public())
	if err != nil {
		return nil, err
	}
	m := machine()
	v.platform = &platform{blobs: blobs, builder: builder}
	return deploy.New(deploy.Config{
		Resources: resources, Blobs: blobs, Runtime: groups, Builder: builder, Groups: instances.Groups{}, Gateway: v.gateway,
		Containers: container.New(container.Config{Engine: os.Getenv(containerEngine), Blobs: blobs}),
		Machine:    deploy.Machine{Cores: m.Cores, Memory: m.Memory}, Slots: v.settings.Instances, Free: freeMemory,
		Dir: v.folder.path("serving", "logs"), Sockets: sockets, Spool: v.folder.path("serving", "collect"),
		Endpoints: v.endpoints.Routes, Trust: serving.Trust{Key: key, Tenant: v.who.Tenant, Audiences: []string{v.origins.Default()}},
		Host: v.host, Secret: v.connectionSecret, Log: v.log, Now: now,
	}), nil
}

// containerEngine is the variable that says which container engine is used:
// its command, or "none".
const containerEngine = "LAPIS_CONTAINER_ENGINE"

// groupsFolder is where the tasks of groups have their folders.
func (f *folder) groupsFolder() string { return f.path("serving", "groups") }

// downGroups ends the groups that a server has left running. The next one starts
// them again.
func (f *folder) downGroups(ctx context.Context, out io.Writer) error {
	if _, err := os.Stat(f.groupsFolder()); err != nil {
		return nil // there never was a deployment
	}
	blobs, err := disk.New(f.path("blobs"))
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	groups, err := process.New(process.Config{Dir: f.groupsFolder(), Blobs: blobs, Supervisor: []string{exe, "supervise"}})
	if err != nil {
		return err
	}
	defer groups.Close()
	ctx, cancel := context.WithTimeout(ctx, groupsDownWithin)
	defer cancel()
	stopped := map[string]bool{}
	for {
		all, err := groups.List(ctx)
		if err != nil {
			return err
		}
		left := 0
		for _, o := range all {
			if o.Phase == compute.Exited {
				continue
			}
			left++
			stopped[o.ID[:strings.LastIndexByte(o.ID, '/')+1]] = true // without its generation
			if err := groups.Stop(ctx, o.ID); err != nil {
				return err
			}
		}
		if left == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "StillRunning", "%d online deployment(s) have not ended within %s.", left, groupsDownWithin)
		case <-groups.Ended():
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err := removeContainers(ctx, socketPath(f.path("serving", "s"))); err != nil {
		fmt.Fprintln(out, "Containers that killed deployments have left were not removed:", err)
	}
	if err := os.RemoveAll(socketPath(f.path("serving", "s"))); err != nil {
		return err
	}
	if len(stopped) > 0 {
		fmt.Fprintf(out, "Stopped %d online deployment(s); the next start of the server starts them again.\n", len(stopped))
	}
	return nil
}

// removeContainers removes what groups that were killed have left.
func removeContainers(ctx context.Context, sockets string) error {
	marks, err := filepath.Glob(filepath.Join(sockets, "*", deploy.ContainerMark))
	if err != nil || len(marks) == 0 {
		return err
	}
	engine := container.New(container.Config{Engine: os.Getenv(containerEngine)})
	for _, mark := range marks {
		err = errors.Join(err, engine.Remove(ctx, filepath.Dir(mark)))
	}
	return err
}

// groupsDownWithin is what groups get to end what they work on.
const groupsDownWithin = 4 * time.Minute

// write puts the resource of an action anew, for its caller.
func (v *server) write(ctx context.Context, call resource.Call, body json.RawMessage) error {
	_, err := v.manager.Put(ctx, manager.Request{ID: call.ID, Caller: call.Caller, Body: body, IfMatch: call.Resource.Etag, View: call.View})
	return err
}

// uses tells whether a job or a deployment uses the environment of that hash.
func (v *server) uses(hash string) bool {
	return v.dispatcher.Uses(hash) || v.deployer != nil && v.deployer.Uses(hash) || v.platform != nil && v.platform.uses(hash)
}

// maxSocketFolder is the longest path of the folder in which groups have their
// folders: a socket's path has at most 107 bytes.
const maxSocketFolder = 80

func socketPath(dir string) string {
	if len(dir) <= maxSocketFolder {
		return dir
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join("/tmp", fmt.Sprintf("lapis-s-%d-%s", os.Geteuid(), strings.ToLower(base32.HexEncoding.EncodeToString(sum[:10]))))
}

// socketFolder makes the folder for sockets: the given one, or one of a short
// name that stands for it.
func socketFolder(dir string) (string, error) {
	dir = socketPath(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// In a folder that all may write to, the name may be someone else's.
	st, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if owner, ok := st.Sys().(*syscall.Stat_t); !st.IsDir() || ok && int(owner.Uid) != os.Geteuid() || st.Mode().Perm()&0o077 != 0 {
		return "", fault.Denied("The folder %s, which is to hold the sockets of online deployments, is another user's or open to others. Remove it.", dir)
	}
	return dir, nil
}

// host tells how the group of a runtime is run.
func (v *server) host(ctx context.Context, s deploy.Spec, env mlenvironment.Built, log io.Writer) (deploy.Host, error) {
	h := deploy.Host{Env: map[string]string{}}
	for _, name := range []string{"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"} {
		h.Env[name] = v.bundle
	}
	for _, name := range []string{"no_proxy", "NO_PROXY"} {
		h.Env[name] = strings.TrimPrefix(os.Getenv(name)+",localhost,127.0.0.1,::1", ",")
	}
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); fromServer.MatchString(name) {
			h.Env[name] = value
			h.Secrets = append(h.Secrets, name)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return h, err
	}
	switch s.Runtime {
	case serving.Python:
		folder, err := driver.Unpack(v.folder.path("runtimes"))
		if err != nil {
			return h, err
		}
		h.Command = driver.Command(filepath.Join(env.Dir, "bin", "python"), folder)
		packages, err := v.platform.packages(ctx, s, env, log)
		if err != nil {
			if ctx.Err() != nil {
				return h, err
			}
			// The script may do without; if not, it says what it misses.
			fmt.Fprintf(log, "lapis: packages that the script names and its environment lacks were not installed: %v\n", err)
		}
		if packages != "" {
			h.Env[driver.PlatformPackages] = packages
		}
	case serving.Program, serving.Image:
		h.Command = "exec " + quote(exe) + " host"
	case serving.Native:
		runner, library := "", ""
		if s.Flavor == "onnx" || s.Flavor == "triton" {
			runner, library, err = v.runtimes.Native(ctx, log)
		} else {
			runner, err = v.runtimes.Runner()
		}
		if err != nil {
			return h, err
		}
		h.Env[serving.GroupLibrary] = library
		h.Command = "exec " + quote(runner)
	default:
		return h, fault.New(fault.NotImplemented, "BadArgument", "The runtime %q is not offered.", s.Runtime)
	}
	return h, nil
}

// inConnection is a reference to something of a connection.
var inConnection = pattern.New(`^azureml://connections/([^/]+)/(credentials|metadata|target)(?:/(.+))?$`)

// connectionSecret is the value that a reference in a variable stands for.
func (v *server) connectionSecret(ctx context.Context, from resource.ID, reference string) (string, error) {
	m := inConnection.FindStringSubmatch(reference)
	if m == nil {
		return "", fault.Invalid("%q is no reference that means something here; use ${{azureml://connections/NAME/credentials/KEY}}", reference)
	}
	id := ml.Home(from).Child("connections", m[1])
	if id.Zero() {
		return "", fault.Invalid("%q is no name of a connection", m[1])
	}
	reply, err := v.manager.Act(ctx, manager.Request{ID: id, Action: "listSecrets", Caller: v.who.platform()})
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(reply.Body)
	if err != nil {
		return "", err
	}
	var c struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return "", err
	}
	value := c.Properties[m[2]]
	for part := range strings.SplitSeq(m[3], "/") {
		if part == "" {
			continue
		}
		var inner map[string]json.RawMessage
		if json.Unmarshal(value, &inner) != nil {
			value = nil
			break
		}
		value = inner[part]
	}
	var text string
	if value == nil || json.Unmarshal(value, &text) != nil {
		return "", fault.NotFound("the connection '%s' has no %s", m[1], strings.TrimSuffix(m[2]+"/"+m[3], "/")).At(connection.Type)
	}
	return text, nil
}
