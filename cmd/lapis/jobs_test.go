package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lapis/resource/identity"
)

// call sends JSON as the administrator and decodes the answer.
func (s *instance) call(t *testing.T, token, method, path, body string) (int, map[string]any) {
	t.Helper()
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	r, err := http.NewRequest(method, s.info.Plain+path+sep+"api-version=2025-01-01-preview", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if len(b) > 0 {
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatalf("%s %s: %s\n%s", method, path, resp.Status, b)
		}
	}
	return resp.StatusCode, m
}

// workspace is the id of the seeded workspace.
func (s *instance) workspace(t testing.TB) string {
	w, err := s.folder().loadIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.MachineLearningServices/workspaces/%s", w.Subscription, w.Group, w.Workspace)
}

// submit puts a job that runs the command in the default environment.
func (s *instance) submit(t *testing.T, token, name, command string) {
	t.Helper()
	ws := s.workspace(t)
	env := ws + "/environments/plain/versions/1"
	if status, m := s.call(t, token, "PUT", env, `{"properties":{"image":"library/python:latest"}}`); status/100 != 2 {
		t.Fatal(status, m)
	}
	body, _ := json.Marshal(map[string]any{"properties": map[string]any{"jobType": "Command", "command": command, "environmentId": env, "experimentName": "test"}})
	if status, m := s.call(t, token, "PUT", ws+"/jobs/"+name, string(body)); status/100 != 2 {
		t.Fatal(status, m)
	}
}

// await waits until the job has one of the states, and returns it.
func (s *instance) await(t *testing.T, token, name string, states ...string) string {
	t.Helper()
	var last any
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		_, m := s.call(t, token, "GET", s.workspace(t)+"/jobs/"+name, "")
		p, _ := m["properties"].(map[string]any)
		last = p["status"]
		for _, want := range states {
			if last == want {
				return want
			}
		}
		if last == "Failed" {
			t.Fatalf("job %s failed: %v", name, m)
		}
	}
	t.Fatalf("job %s is %v, want one of %v", name, last, states)
	return ""
}

func TestJobsOutliveTheServer(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3 to make the default environment of")
	}
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	gate := filepath.Join(t.TempDir(), "gate")
	s.submit(t, token, "patient", "until [ -e "+quote(gate)+" ]; do sleep 0.1; done; echo done")
	s.await(t, token, "patient", "Running")

	s.stop(syscall.SIGINT)
	if !strings.Contains(s.out.String(), "1 job goes on") || !strings.Contains(s.out.String(), "lapis down --jobs") {
		t.Errorf("it said:\n%s", s.out)
	}
	t.Run("a restart on another port is refused", func(t *testing.T) {
		refused(t, []string{"1 job goes on", "--listen localhost:" + s.info.Port}, "up", "--data", s.dir, "--listen", "localhost:0")
	})
	again := start(t, s.dir, "--listen", "localhost:"+s.info.Port)
	if state := again.await(t, token, "patient", "Running", "Completed"); state != "Running" {
		t.Errorf("the job is %s before it may end", state)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again.await(t, token, "patient", "Completed")
	again.stop(syscall.SIGTERM)
	if !strings.Contains(again.out.String(), "No job is running") {
		t.Errorf("it said:\n%s", again.out)
	}
	start(t, s.dir).stop(syscall.SIGTERM) // any port will do now
}

func TestAJobThatRanWhenTheBackupWasMadeIsFailedAfterTheRestore(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3 to make the default environment of")
	}
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	runs := filepath.Join(t.TempDir(), "runs")
	gate := filepath.Join(t.TempDir(), "gate")
	s.submit(t, token, "caught", "echo x >> "+quote(runs)+"; until [ -e "+quote(gate)+" ]; do sleep 0.1; done")
	s.await(t, token, "caught", "Running")
	file := filepath.Join(t.TempDir(), "b.tar")
	if out, errs, err := command(t, "backup", file, "--data", s.dir); err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	if out, errs, err := command(t, "restore", file, "--data", dir); err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	r := start(t, dir, "--url", s.info.URL) // on another port, beside the first
	var properties map[string]any
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		_, m := r.call(t, token, "GET", r.workspace(t)+"/jobs/caught", "")
		if properties, _ = m["properties"].(map[string]any); properties["status"] == "Failed" {
			break
		}
	}
	if properties["status"] != "Failed" {
		t.Errorf("after the restore: %v", properties)
	}
	os.WriteFile(gate, nil, 0o600)
	s.await(t, token, "caught", "Completed")
	if b, _ := os.ReadFile(runs); string(b) != "x\n" {
		t.Errorf("the command ran %d times", strings.Count(string(b), "x"))
	}
}

func TestDownWithJobsCancelsThem(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3 to make the default environment of")
	}
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	pidFile := filepath.Join(t.TempDir(), "pid")
	s.submit(t, token, "endless", "echo $$ > "+quote(pidFile)+"; sleep 1000")
	s.await(t, token, "endless", "Running")
	out, errs, err := command(t, "down", "--jobs", "--data", s.dir)
	if err != nil || !strings.Contains(out, "Canceled 1 job") {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	if err := <-s.done; err != nil {
		t.Errorf("the server ended with %v", err)
	}
	s.done <- nil
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("the job's process %d is still there: %v", pid, err)
	}
}

func TestCodeInAJobSignsInByItself(t *testing.T) {
	python := unmodified(t)
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	dir := t.TempDir()
	script := filepath.Join(dir, "inside.py")
	found := filepath.Join(dir, "found.json")
	if err := os.WriteFile(script, []byte(`
import json, os, sys, requests
from azure.identity import DefaultAzureCredential
base = "https://" + os.environ["IDENTITY_ENDPOINT"].split("/")[2]
token = DefaultAzureCredential().get_token(base + "/.default").token
def get(path, word):
    return requests.get(base + path + "?api-version=2023-04-01", headers={"Authorization": "Bearer " + word}).status_code
mine = os.environ["AZUREML_WORKSPACE_SCOPE"]
out = {"own workspace": get(mine + "/jobs/" + os.environ["AZUREML_RUN_ID"], token),
       "by its own token": get(mine, os.environ["AZUREML_RUN_TOKEN"]),
       "another workspace": get(mine + "2", token),
       "token": token}
json.dump(out, open(sys.argv[1] + ".new", "w"))
os.rename(sys.argv[1] + ".new", sys.argv[1])
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.submit(t, token, "inside", quote(python)+" "+quote(script)+" "+quote(found))
	s.await(t, token, "inside", "Completed")
	b, err := os.ReadFile(found)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got["own workspace"] != 200.0 || got["by its own token"] != 200.0 || got["another workspace"] != 403.0 {
		t.Errorf("%v", got)
	}
	// The token of a job may not touch what belongs to the administrator.
	word := got["token"].(string)
	for _, c := range []struct{ method, path, body string }{
		{"PUT", s.workspace(t) + "/computes/c", `{"location":"local","properties":{"computeType":"AmlCompute","properties":{}}}`},
		{"DELETE", s.workspace(t), ""},
		{"PUT", strings.Split(s.workspace(t), "/providers/")[0] + "x", `{"location":"local"}`},
	} {
		if status, m := s.call(t, word, c.method, c.path, c.body); status != 403 {
			t.Errorf("%s %s: %d %v", c.method, c.path, status, m)
		}
	}
}

func TestEveryProtocolRefusesATokenThatIsNotGood(t *testing.T) {
	s := start(t, t.TempDir())
	ws := s.workspace(t)
	f := s.folder()
	k, err := f.loadKeys()
	if err != nil {
		t.Fatal(err)
	}
	w, err := f.loadIdentity()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key *rsa.PrivateKey, audience string, age time.Duration) string {
		i := identity.NewIssuer(identity.IssuerConfig{Key: key, Tenant: w.Tenant, Trusted: func(string) bool { return true },
			Now: func() time.Time { return time.Now().Add(-age) }})
		token, err := i.Issue(w.admin(), s.info.URL+"/adfs", audience, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	if status := s.get(t, sign(k.signing, s.info.URL, 0), ws+"?api-version=2023-04-01"); status != 200 {
		t.Fatalf("a good token: %d", status)
	}
	paths := []string{
		ws + "?api-version=2023-04-01",
		"/api/2.0/mlflow/experiments/get?experiment_id=0",
		"/mlflow/v1.0" + ws + "/api/2.0/mlflow/experiments/get?experiment_id=0",
		"/history/v1.0" + ws + "/experimentids/x/runs/y/details",
		s.container(t, sign(k.signing, s.info.URL, 0)) + "/key",
	}
	for _, c := range []struct{ name, token string }{
		{"none", ""},
		{"expired", sign(k.signing, s.info.URL, 2*time.Hour)},
		{"from the future", sign(k.signing, s.info.URL, -time.Hour)},
		{"forged", sign(stranger, s.info.URL, 0)},
		{"for another audience", sign(k.signing, "https://vault.azure.net", 0)},
		{"a long one that was never given out", "lapis_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
	} {
		for _, path := range paths {
			r, _ := http.NewRequest("GET", s.info.Plain+path, nil)
			if c.token != "" {
				r.Header.Set("Authorization", "Bearer "+c.token)
			}
			if strings.HasPrefix(path, "/blob/") {
				r.Header.Set("x-ms-version", "2025-05-05")
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			// The Blob dialect answers 403 to what it cannot authenticate.
			if resp.StatusCode != 401 && !(strings.HasPrefix(path, "/blob/") && resp.StatusCode == 403) {
				t.Errorf("%s at %.40s: %s %s", c.name, path, resp.Status, body)
			}
			if resp.StatusCode == 401 && resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s at %.40s: no WWW-Authenticate", c.name, path)
			}
		}
	}
}
