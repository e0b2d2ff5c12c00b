package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lapis/client"
	"lapis/client/spec"
	"lapis/fault"
)

// server answers sign-in and hands the rest to the handler.
func server(t *testing.T, handle http.HandlerFunc) (*httptest.Server, *client.Client) {
	t.Helper()
	s := httptest.NewServer(signIn(handle))
	t.Cleanup(s.Close)
	return s, connect(t, s.URL)
}

func signIn(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/oauth2/v2.0/token") {
			if r.FormValue("client_secret") != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				io.WriteString(w, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret."}`)
				return
			}
			io.WriteString(w, `{"access_token":"token","expires_in":3600}`)
			return
		}
		handle(w, r)
	}
}

func connect(t *testing.T, url string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: url, Tenant: "t", ClientID: "c", ClientSecret: "secret", Target: spec.Target{Subscription: "s", ResourceGroup: "g", Workspace: "w"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestABusyServerIsAskedAgain(t *testing.T) {
	for _, status := range []int{429, 503} {
		var calls atomic.Int32
		_, c := server(t, func(w http.ResponseWriter, r *http.Request) {
			if calls.Add(1) < 3 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(status)
				return
			}
			io.WriteString(w, `{"name":"x"}`)
		})
		if _, err := c.Get(context.Background(), c.Path("jobs", "x")); err != nil || calls.Load() != 3 {
			t.Errorf("%d: %v after %d calls", status, err, calls.Load())
		}
	}
}

func TestAServerThatComesBackIsWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	handler := signIn(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"name":"x"}`) })
	first := &http.Server{Handler: handler}
	go first.Serve(l)
	c := connect(t, "http://"+address)
	if _, err := c.Get(context.Background(), c.Path("jobs", "x")); err != nil {
		t.Fatal(err)
	}
	first.Close()
	waited := make(chan struct{})
	var once sync.Once
	c.Waiting = func(error) { once.Do(func() { close(waited) }) }
	go func() {
		<-waited
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		second := &http.Server{Handler: handler}
		t.Cleanup(func() { second.Close() })
		second.Serve(l)
	}()
	if _, err := c.Get(context.Background(), c.Path("jobs", "x")); err != nil {
		t.Fatal(err)
	}
}

func TestAServerThatWasNeverThereIsReportedAtOnce(t *testing.T) {
	c := connect(t, "http://127.0.0.1:1")
	began := time.Now()
	_, err := c.Get(context.Background(), c.Path())
	if err == nil || !strings.Contains(err.Error(), "lapis up") {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestAnExpiredTokenIsRenewedOnce(t *testing.T) {
	var calls atomic.Int32
	_, c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, `{}`)
	})
	if _, err := c.Get(context.Background(), c.Path()); err != nil || calls.Load() != 2 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

func TestAWrongSecretNamesTheRemedy(t *testing.T) {
	s, _ := server(t, func(http.ResponseWriter, *http.Request) {})
	c, err := client.New(client.Config{URL: s.URL, Tenant: "t", ClientID: "c", ClientSecret: "wrong"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(context.Background(), "/x"); !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), "lapis connect") {
		t.Errorf("the error is %v", err)
	}
}

func TestErrorsKeepTheServersWords(t *testing.T) {
	for body, want := range map[string]string{
		`{"error":{"code":"ResourceNotFound","message":"The job 'x' could not be found."}}`:        "The job 'x' could not be found.",
		`<?xml version="1.0"?><Error><Code>BlobNotFound</Code><Message>No blob.</Message></Error>`: "No blob.",
		`{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"No run."}`:                             "No run.",
		`<html>oops`: "404",
	} {
		_, c := server(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, body)
		})
		_, err := c.Get(context.Background(), "/x")
		if !fault.Is(err, fault.Missing) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s became %v", body, err)
		}
	}
}

func TestAnOperationIsFollowedToItsEnd(t *testing.T) {
	for _, c := range []struct{ end, want string }{
		{`{"status":"Succeeded"}`, ""},
		{`{"status":"Failed","error":{"code":"NoRoom","message":"There is no room."}}`, "There is no room."},
	} {
		var polls atomic.Int32
		var s *httptest.Server
		s, k := server(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPut:
				w.Header().Set("Azure-AsyncOperation", s.URL+"/operation")
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusCreated)
				io.WriteString(w, `{"properties":{"provisioningState":"Creating"}}`)
			case r.URL.Path == "/operation":
				w.Header().Set("Retry-After", "0")
				if polls.Add(1) < 3 {
					io.WriteString(w, `{"status":"InProgress"}`)
				} else {
					io.WriteString(w, c.end)
				}
			default:
				io.WriteString(w, `{"properties":{"provisioningState":"Succeeded"}}`)
			}
		})
		reply, err := k.Request(context.Background(), http.MethodPut, k.Path("computes", "c"), "", nil, map[string]any{})
		if c.want == "" && (err != nil || !bytes.Contains(reply, []byte(`"Succeeded"`))) {
			t.Errorf("%s: %s, %v", c.end, reply, err)
		}
		if c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%s: %v", c.end, err)
		}
	}
}

func TestAListIsReadPageByPage(t *testing.T) {
	var s *httptest.Server
	s, c := server(t, func(w http.ResponseWriter, r *http.Request) {
		page := r.URL.Query().Get("page")
		switch page {
		case "":
			fmt.Fprintf(w, `{"value":[{"name":"a"}],"nextLink":"%s%s?page=2"}`, s.URL, r.URL.Path)
		case "2":
			fmt.Fprintf(w, `{"value":[{"name":"b"}],"nextLink":"https://elsewhere.test/x"}`)
		}
	})
	var names []string
	var last error
	for v, err := range c.List(context.Background(), c.Path("jobs"), nil) {
		if last = err; err != nil {
			break
		}
		var r struct{ Name string }
		json.Unmarshal(v, &r)
		names = append(names, r.Name)
	}
	if strings.Join(names, "") != "ab" {
		t.Errorf("the list is %v", names)
	}
	if last == nil || !strings.Contains(last.Error(), "elsewhere") {
		t.Errorf("the token was taken to another host: %v", last)
	}
}

// store is a container in memory that speaks as much of the Blob dialect as an
// upload and a download need.
type store struct {
	mu     sync.Mutex
	blobs  map[string][]byte
	meta   map[string]string
	blocks map[string][]byte
	broken atomic.Int32 // so many replies to reads end in the middle
	puts   atomic.Int32
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/box/")
	q := r.URL.Query()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && q.Get("comp") == "list":
		fmt.Fprint(w, `<EnumerationResults><Blobs>`)
		for n, b := range s.blobs {
			if strings.HasPrefix(n, q.Get("prefix")) {
				fmt.Fprintf(w, `<Blob><Name>%s</Name><Properties><Content-Length>%d</Content-Length></Properties></Blob>`, n, len(b))
			}
		}
		fmt.Fprint(w, `</Blobs><NextMarker/></EnumerationResults>`)
	case r.Method == http.MethodHead:
		if _, ok := s.blobs[name]; !ok {
			w.Header().Set("x-ms-error-code", "BlobNotFound")
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("x-ms-meta-upload_status", s.meta[name])
	case r.Method == http.MethodGet:
		data, ok := s.blobs[name]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("ETag", `"1"`)
		if s.broken.Add(-1) >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.Write(data[:len(data)/2])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	case q.Get("comp") == "metadata":
		s.meta[name] = r.Header.Get("x-ms-meta-upload_status")
	case q.Get("comp") == "block":
		data, _ := io.ReadAll(r.Body)
		s.blocks[name+q.Get("blockid")] = data
		s.puts.Add(1)
	case q.Get("comp") == "blocklist":
		data, _ := io.ReadAll(r.Body)
		var all []byte
		for _, part := range strings.Split(string(data), "<Latest>")[1:] {
			id, _, _ := strings.Cut(part, "</Latest>")
			all = append(all, s.blocks[name+id]...)
		}
		s.blobs[name] = all
	default:
		data, _ := io.ReadAll(r.Body)
		s.blobs[name] = data
		s.puts.Add(1)
	}
}

// workspace answers what an upload to and a download from the default
// datastore ask.
func workspace(t *testing.T) (*store, *client.Client) {
	st := &store{blobs: map[string][]byte{}, meta: map[string]string{}, blocks: map[string][]byte{}}
	_, c := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/box"):
			if r.URL.Query().Get("sig") != "s" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			if r.Header.Get("Authorization") != "" {
				t.Error("a blob request carries the token beside the SAS")
			}
			st.ServeHTTP(w, r)
		case strings.HasSuffix(r.URL.Path, "/listSecrets"):
			io.WriteString(w, `{"secretsType":"Sas","sasToken":"sv=1&sig=s"}`)
		case strings.Contains(r.URL.Path, "/datastores/"):
			io.WriteString(w, `{"properties":{"datastoreType":"AzureBlob","accountName":"acct","containerName":"box","endpoint":"core.host"}}`)
		case strings.HasSuffix(r.URL.Path, "/models/m/versions/1"):
			io.WriteString(w, `{"properties":{"modelUri":"azureml://datastores/workspaceblobstore/paths/things/model"}}`)
		case r.Method == http.MethodPut:
			io.Copy(w, r.Body)
		default:
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `{"error":{"message":"nothing there"}}`)
		}
	})
	return st, c
}

func createData(t *testing.T, c *client.Client, path string) string {
	t.Helper()
	d, err := spec.Parse("data.yml", filepath.Dir(path), []byte("name: d\nversion: 1\ntype: uri_folder\npath: "+filepath.Base(path)+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Create(context.Background(), d, "data", spec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Properties struct{ DataURI string } }
	if err := json.Unmarshal(r.Reply, &v); err != nil {
		t.Fatal(err)
	}
	_, prefix, _ := strings.Cut(v.Properties.DataURI, "/paths/")
	return prefix
}

func TestWhatIsUploadedIsNotUploadedAgain(t *testing.T) {
	st, c := workspace(t)
	dir := filepath.Join(t.TempDir(), "folder")
	os.MkdirAll(filepath.Join(dir, "sub"), 0o755)
	os.WriteFile(filepath.Join(dir, "a b.txt"), []byte("one"), 0o644)
	os.WriteFile(filepath.Join(dir, "sub", "empty"), nil, 0o644)
	big := bytes.Repeat([]byte("0123456789abcdef"), 66<<20/16)
	os.WriteFile(filepath.Join(dir, "sub", "big"), big, 0o644)

	var last, total int64
	c.Progress = func(_ string, done, of int64) { last, total = done, of }
	prefix := createData(t, c, dir)
	if !bytes.Equal(st.blobs[prefix+"/sub/big"], big) || string(st.blobs[prefix+"/a b.txt"]) != "one" || st.blobs[prefix+"/sub/empty"] == nil {
		t.Error("the blobs are not the files")
	}
	if last != total || total != int64(len(big)+3) {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	puts := st.puts.Load()
	if again := createData(t, c, dir); again != prefix || st.puts.Load() != puts {
		t.Errorf("the second time %d blobs were sent, to %s", st.puts.Load()-puts, again)
	}
	// One that was cut off is sent anew: the mark is missing.
	st.meta = map[string]string{}
	createData(t, c, dir)
	if st.puts.Load() == puts {
		t.Error("an upload without its mark is taken for whole")
	}
}

func TestADownloadThatBreaksIsTakenUpWhereItBroke(t *testing.T) {
	st, c := workspace(t)
	want := bytes.Repeat([]byte("weights "), 10000)
	st.blobs["things/model/w.bin"] = want
	st.blobs["things/model/sub/x"] = []byte("x")
	st.blobs["things/model2/no"] = []byte("a neighbour")
	st.broken.Store(1)
	dir := t.TempDir()
	n, err := c.DownloadModel(context.Background(), "m", "1", dir)
	if err != nil || n != 2 {
		t.Fatalf("%d files, %v", n, err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "m", "model", "w.bin"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file differs: %d bytes, %v", len(got), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "m", "model", "sub", "x")); err != nil {
		t.Error(err)
	}
}

func TestABlobMayNotLeaveTheFolder(t *testing.T) {
	st, c := workspace(t)
	st.blobs["things/model/../../../evil"] = []byte("x")
	if _, err := c.DownloadModel(context.Background(), "m", "1", t.TempDir()); err == nil || !strings.Contains(err.Error(), "outside") {
		t.Errorf("the error is %v", err)
	}
}

// The log is read by ranges: each byte once, however often it is asked for.
func TestALogIsReadOnce(t *testing.T) {
	var polls, sent atomic.Int32
	lines := []string{"one\n", "two\n", "three\n", "four\n"}
	var s *httptest.Server
	s, c := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/details"):
			status := "Running"
			if polls.Add(1) >= int32(len(lines)) {
				status = "Completed"
			}
			fmt.Fprintf(w, `{"status":%q,"logFiles":{"user_logs/std_log.txt":"%s/log","azureml-logs/20_image_build_log.txt":"%s/build"}}`, status, s.URL, s.URL)
		case r.URL.Path == "/log":
			text := strings.Join(lines[:min(int(polls.Load()), len(lines))], "")
			counted := &counter{ResponseWriter: w, n: &sent}
			http.ServeContent(counted, r, "", time.Time{}, strings.NewReader(text))
		case r.URL.Path == "/build":
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader("resolving\ninstalling"))
		}
	})
	var out bytes.Buffer
	var build, statuses []string
	r, err := c.Stream(context.Background(), "j", client.Follow{
		Out:    &out,
		Build:  func(line string) { build = append(build, line) },
		Status: func(status, _ string) { statuses = append(statuses, status) },
	})
	if err != nil || r.Status != "Completed" {
		t.Fatalf("%s, %v", r.Status, err)
	}
	want := strings.Join(lines, "")
	if out.String() != want {
		t.Errorf("the log is %q", out.String())
	}
	if int(sent.Load()) != len(want) {
		t.Errorf("%d bytes were sent for a log of %d", sent.Load(), len(want))
	}
	if strings.Join(build, ",") != "resolving,installing" || strings.Join(statuses, ",") != "Running,Completed" {
		t.Errorf("build %v, statuses %v", build, statuses)
	}
}

type counter struct {
	http.ResponseWriter
	n  *atomic.Int32
	ok bool
}

func (c *counter) WriteHeader(status int) {
	c.ok = status < 300
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(b []byte) (int, error) {
	if c.ok {
		c.n.Add(int32(len(b)))
	}
	return c.ResponseWriter.Write(b)
}

func TestTheEnvironmentOfConnectIsUnderstood(t *testing.T) {
	vars := map[string]string{
		"ARM_CLOUD_METADATA_URL": "https://localhost:7443/metadata/endpoints?api-version=2019-05-01", "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s",
		"AZUREML_ARM_SUBSCRIPTION": "sub", "AZUREML_ARM_RESOURCEGROUP": "g", "AZUREML_ARM_WORKSPACE_NAME": "w", "REQUESTS_CA_BUNDLE": "/ca.pem",
	}
	c, ok := client.FromEnvironment(func(k string) string { return vars[k] })
	if !ok || c.URL != "https://localhost:7443" || c.CA != "/ca.pem" || c.Workspace != "w" || c.ClientSecret != "s" {
		t.Errorf("%+v, %v", c.Target, ok)
	}
	if _, ok := client.FromEnvironment(func(string) string { return "" }); ok {
		t.Error("an empty environment names a server")
	}
}

func TestTheWorkspaceFileIsFoundAbove(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, ".azureml"), 0o755)
	os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755)
	os.WriteFile(filepath.Join(dir, ".azureml", "config.json"), []byte(`{"subscription_id":"s","resource_group":"g","workspace_name":"w"}`), 0o644)
	os.WriteFile(filepath.Join(dir, "a", "config.json"), []byte(`{"other":"program's"}`), 0o644)
	got, err := client.WorkspaceFile(filepath.Join(dir, "a", "b"))
	if err != nil || got != (spec.Target{Subscription: "s", ResourceGroup: "g", Workspace: "w"}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAJobKnowsItsCommit(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e@host", "-C", dir}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("git: %v\n%s", err, out)
		}
	}
	if got := client.GitProperties(context.Background(), dir); len(got) != 0 {
		t.Errorf("outside of a repository: %v", got)
	}
	git("init", "-q", "-b", "trunk")
	os.WriteFile(filepath.Join(dir, "a"), nil, 0o644)
	git("add", "a")
	git("commit", "-q", "-m", "one")
	git("remote", "add", "origin", "https://user:secret@host/repo.git")
	got := client.GitProperties(context.Background(), dir)
	if got["mlflow.source.git.branch"] != "trunk" || len(got["mlflow.source.git.commit"]) != 40 || got["azureml.git.dirty"] != "" {
		t.Errorf("clean: %v", got)
	}
	if got["mlflow.source.git.repoURL"] != "https://host/repo.git" {
		t.Errorf("the address is %q", got["mlflow.source.git.repoURL"])
	}
	os.WriteFile(filepath.Join(dir, "b"), nil, 0o644)
	if got := client.GitProperties(context.Background(), dir); got["azureml.git.dirty"] != "True" {
		t.Errorf("changed: %v", got)
	}
}
