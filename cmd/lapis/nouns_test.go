package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConnectionsKeepTheirSecrets(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	token := clientToken(t, s)
	c := s.workspace(t) + "/connections/git"
	const body = `{"properties":{"authType":"PAT","category":"Git","target":"https://example.com","credentials":{"pat":"very-secret-token"},"metadata":{"a":"b"}}}`

	if m := s.ask(t, token, "PUT", c, body, 200); strings.Contains(fmt.Sprint(m), "very-secret") {
		t.Error(m)
	}
	if m := s.ask(t, token, "GET", c, "", 200); strings.Contains(fmt.Sprint(m), "very-secret") || at(m, "properties", "metadata", "a") != "b" {
		t.Error(m)
	}
	if m := s.ask(t, token, "POST", c+"/listsecrets", "", 200); at(m, "properties", "credentials", "pat") != "very-secret-token" {
		t.Error(m)
	}
	t.Run("what comes back without credentials keeps those that are there", func(t *testing.T) {
		s.ask(t, token, "PUT", c, `{"properties":{"authType":"PAT","category":"Git","target":"https://example.org"}}`, 200)
		if m := s.ask(t, token, "POST", c+"/listsecrets", "", 200); at(m, "properties", "credentials", "pat") != "very-secret-token" || at(m, "properties", "target") != "https://example.org" {
			t.Error(m)
		}
	})
	t.Run("lists can be of one category", func(t *testing.T) {
		if got := names(s.ask(t, token, "GET", s.workspace(t)+"/connections?category=PythonFeed", "", 200)); got != "" {
			t.Errorf("feeds %q", got)
		}
		if got := names(s.ask(t, token, "GET", s.workspace(t)+"/connections?category=git", "", 200)); got != "git" {
			t.Errorf("git %q", got)
		}
	})
	t.Run("what is missing is named", func(t *testing.T) {
		for target, body := range map[string]string{
			"properties.category":        `{"properties":{"authType":"PAT","target":"x","credentials":{"pat":"y"}}}`,
			"properties.authType":        `{"properties":{"authType":"Magic","category":"Git","target":"x"}}`,
			"properties.credentials.pat": `{"properties":{"authType":"PAT","category":"Git","target":"x","credentials":{"password":"y"}}}`,
		} {
			if m := s.ask(t, token, "PUT", c+"2", body, 400); at(m, "error", "target") != target {
				t.Errorf("%s: %v", target, m)
			}
		}
	})
	t.Run("another way to sign in leaves nothing of the one before", func(t *testing.T) {
		s.ask(t, token, "PUT", c, `{"properties":{"authType":"None","category":"Git","target":"x"}}`, 200)
		if m := s.ask(t, token, "POST", c+"/listsecrets", "", 200); at(m, "properties", "credentials") != nil {
			t.Error(m)
		}
	})
	s.ask(t, token, "DELETE", c, "", 200)
	s.ask(t, token, "DELETE", c, "", 204)
	files, err := filepath.Glob(filepath.Join(dir, "lapis.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range append(files, filepath.Join(dir, "logs", "server.log")) {
		if raw, err := os.ReadFile(f); err == nil && strings.Contains(string(raw), "very-secret-token") {
			t.Errorf("the secret lies in clear in %s", f)
		}
	}
}

func TestAComputeInstanceIsStartedAndStopped(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	token := clientToken(t, s)
	ws := s.workspace(t)
	ci := ws + "/computes/ci1"
	state := func(want string) {
		t.Helper()
		if m := s.ask(t, token, "GET", ci, "", 200); at(m, "properties", "properties", "state") != want || at(m, "properties", "provisioningState") != "Succeeded" {
			t.Errorf("want %s: %v", want, m)
		}
	}
	s.ask(t, token, "PUT", ci, `{"location":"local","properties":{"computeType":"ComputeInstance","properties":{}}}`, 400)
	s.ask(t, token, "PUT", ci, `{"location":"local","properties":{"computeType":"ComputeInstance","properties":{"vmSize":"STANDARD_DS3_V2","idleTimeBeforeShutdown":"PT1M"}}}`, 400)
	s.ask(t, token, "PUT", ci, `{"location":"local","properties":{"computeType":"ComputeInstance","properties":{"vmSize":"STANDARD_DS3_V2"}}}`, 201)
	state("Running")
	s.ask(t, token, "POST", ci+"/stop", "", 202)
	state("Stopped")

	env := ws + "/environments/plain/versions/1"
	s.ask(t, token, "PUT", env, `{"properties":{"image":"library/python:latest"}}`, 201)
	s.ask(t, token, "PUT", ws+"/jobs/j1", fmt.Sprintf(`{"properties":{"jobType":"Command","command":"true","environmentId":%q,"computeId":%q,"experimentName":"e"}}`, env, ci), 201)
	if got := s.await(t, token, "j1", "Queued", "Completed", "Failed"); got != "Queued" {
		t.Fatal(got)
	}
	reason := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && !strings.Contains(reason, "stopped"); time.Sleep(50 * time.Millisecond) {
		_, m := s.call(t, token, "GET", "/history/v1.0"+ws+"/runs/j1/details", "")
		reason = fmt.Sprint(m)
	}
	if !strings.Contains(reason, "lapis compute start") {
		t.Errorf("the reason is not told: %s", reason)
	}
	// It is off after a restart of the server too, and a PUT does not turn it on.
	s.kill()
	s = start(t, dir, "--listen", "localhost:"+s.info.Port)
	s.ask(t, token, "PUT", ci, `{"location":"local","tags":{"a":"b"},"properties":{"computeType":"ComputeInstance","properties":{"vmSize":"STANDARD_DS3_V2"}}}`, 201)
	state("Stopped")
	s.ask(t, token, "POST", ci+"/start", "", 202)
	state("Running")
	if got := s.await(t, token, "j1", "Completed", "Failed"); got != "Completed" {
		t.Error(got)
	}
	s.ask(t, token, "PUT", ws+"/computes/cl1", `{"location":"local","properties":{"computeType":"AmlCompute","properties":{"vmSize":"STANDARD_DS3_V2"}}}`, 201)
	s.ask(t, token, "POST", ws+"/computes/cl1/stop", "", 400)
}

func TestAnAttachedMachineIsKeptWithoutItsSecrets(t *testing.T) {
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	vm := s.workspace(t) + "/computes/vm1"
	s.ask(t, token, "PUT", vm, `{"location":"local","properties":{"computeType":"VirtualMachine","resourceId":"/subscriptions/s/x","properties":{"sshPort":22,"administratorAccount":{"username":"u","password":"very-secret"}}}}`, 201)
	m := s.ask(t, token, "GET", vm, "", 200)
	if strings.Contains(fmt.Sprint(m), "very-secret") || at(m, "properties", "isAttachedCompute") != true || at(m, "properties", "properties", "administratorAccount", "username") != "u" {
		t.Error(m)
	}
}

func TestTheDefaultVersionIsTheLatest(t *testing.T) {
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	c := s.workspace(t) + "/components/c1/versions/"
	s.ask(t, token, "GET", c+"azureml_default", "", 404)
	for _, v := range []string{"1", "2"} {
		s.ask(t, token, "PUT", c+v, `{"properties":{"componentSpec":{"type":"command","command":"ls `+v+`","environment":"azureml:e:1"}}}`, 201)
	}
	if m := s.ask(t, token, "GET", c+"azureml_default", "", 200); m["name"] != "2" || !strings.HasSuffix(m["id"].(string), "/versions/2") {
		t.Error(m)
	}
	s.ask(t, token, "PUT", c+"azureml_default", `{"properties":{"componentSpec":{"type":"command","command":"ls"}}}`, 400)
	s.ask(t, token, "DELETE", c+"azureml_default", "", 204)
}

func TestWhatIsNotOfferedSaysSo(t *testing.T) {
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	for _, path := range []string{"schedules", "batchEndpoints/e", "batchEndpoints/e/deployments"} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			if method != "GET" && path == "schedules" || method != "GET" && strings.HasSuffix(path, "deployments") {
				continue
			}
			if m := s.ask(t, token, method, s.workspace(t)+"/"+path, `{"properties":{}}`, 501); !strings.Contains(fmt.Sprint(m), "not offer") {
				t.Error(m)
			}
		}
	}
}
