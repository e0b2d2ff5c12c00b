package mlflowhttp_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"testing"
)

func TestAFolderComesAsAZipFile(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	base := "/api/2.0/mlflow-artifacts/artifacts/0/" + run + "/artifacts/"
	for name, body := range map[string]string{"top.txt": "t", "m/a.txt": strings.Repeat("a", 5000), "m/sub/b.bin": "b", "m%20x/c": "c"} {
		if status, reply := c.raw("PUT", base+name, body, ""); status != 200 {
			t.Fatal(status, reply)
		}
	}
	const call = "/api/lapis/artifacts/zip"
	for path, want := range map[string]string{
		"":      "m x/c=1 m/a.txt=5000 m/sub/b.bin=1 top.txt=1",
		"m":     "a.txt=5000 sub/b.bin=1",
		"m/":    "a.txt=5000 sub/b.bin=1",
		"m/sub": "b.bin=1",
		// A single file is an archive of that file.
		"m/a.txt": "a.txt=5000",
	} {
		status, reply := c.raw("GET", call+"?run_id="+run+"&path="+path, "", "")
		z, err := zip.NewReader(strings.NewReader(reply), int64(len(reply)))
		if status != 200 || err != nil {
			t.Fatalf("%q: %d %v", path, status, err)
		}
		var names []string
		for _, f := range z.File {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
			names = append(names, fmt.Sprintf("%s=%d", f.Name, len(b)))
		}
		sort.Strings(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%q holds %s, want %s", path, got, want)
		}
	}
	for query, want := range map[string]int{
		"run_id=" + run + "&path=none": 404, "run_id=none": 404, "": 400, "run_id=" + run + "&model_id=m": 400, "run_id=" + run + "&path=../x": 400,
	} {
		if status, reply := c.raw("GET", call+"?"+query, "", ""); status != want || !strings.Contains(reply, "error_code") {
			t.Errorf("%q: %d %s, want %d", query, status, reply, want)
		}
	}
}

func TestAnArtefactIsSentInParts(t *testing.T) {
	c := newClient(t)
	const folder = "0/0123456789abcdef0123456789abcdef/artifacts/d"
	const mpu = "/api/2.0/mlflow-artifacts/mpu/"
	part := func(url any, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "PUT", url.(string), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		if reply.StatusCode/100 != 2 {
			t.Fatalf("%s: %d", url, reply.StatusCode)
		}
	}
	create := func() (string, []any) {
		t.Helper()
		made := c.do("POST", mpu+"create/"+folder, `{"path":"/tmp/big one.bin","num_parts":3}`, 200)
		return made["upload_id"].(string), made["credentials"].([]any)
	}
	upload, credentials := create()
	if len(credentials) != 3 {
		t.Fatal(credentials)
	}
	other, more := create()
	for i := 2; i >= 0; i-- {
		part(at(credentials[i], "url"), strings.Repeat(fmt.Sprint(i+1), 1000))
		part(at(more[i], "url"), "other")
	}
	finish := func(upload, parts string) (int, string) {
		return c.raw("POST", mpu+"complete/"+folder, `{"path":"/tmp/big one.bin","upload_id":"`+upload+`","parts":[`+parts+`]}`, "application/json")
	}
	// Aborting one upload leaves the other alone.
	c.do("POST", mpu+"abort/"+folder, `{"path":"/tmp/big one.bin","upload_id":"`+other+`"}`, 200)
	for _, bad := range [][2]string{
		{other, `{"part_number":1}`},
		{upload, `{"part_number":1},{"part_number":4}`},
		{upload, `{"part_number":2},{"part_number":1}`},
		{upload, ``},
		{"no-upload", `{"part_number":1}`},
	} {
		if status, reply := finish(bad[0], bad[1]); status != 400 || !strings.Contains(reply, "INVALID_PARAMETER_VALUE") {
			t.Errorf("%v: %d %s", bad, status, reply)
		}
	}
	const get = "/api/2.0/mlflow-artifacts/artifacts/" + folder + "/big%20one.bin"
	if status, _ := c.raw("GET", get, "", ""); status != 404 {
		t.Fatalf("before it is complete: %d", status)
	}
	if status, reply := finish(upload, `{"part_number":1,"etag":"","url":"u"},{"part_number":2},{"part_number":3}`); status != 200 || reply != "{}" {
		t.Fatal(status, reply)
	}
	want := strings.Repeat("1", 1000) + strings.Repeat("2", 1000) + strings.Repeat("3", 1000)
	if status, reply := c.raw("GET", get, "", ""); status != 200 || reply != want {
		t.Fatalf("%d, %d bytes", status, len(reply))
	}
	signed := c.do("GET", "/api/2.0/mlflow-artifacts/presigned/"+folder+"/big%20one.bin", "", 200)
	if fmt.Sprint(signed["file_size"]) != "3000" {
		t.Error(signed)
	}
	r, _ := http.NewRequestWithContext(t.Context(), "GET", signed["url"].(string), nil)
	r.Header.Set("Range", "bytes=999-1000")
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if b, err := io.ReadAll(reply.Body); err != nil || reply.StatusCode != 206 || !bytes.Equal(b, []byte("12")) {
		t.Errorf("%d %q %v", reply.StatusCode, b, err)
	}
	for _, bad := range []struct {
		path, body string
		status     int
	}{
		{"create/" + folder, `{"num_parts":3}`, 400},
		{"create/" + folder, `{"path":"a","num_parts":0}`, 400},
		{"create/" + folder, `{"path":"a","num_parts":10001}`, 400},
		{"create/" + folder, `{"path":"/","num_parts":1}`, 400},
		{"create/0/..%2f..%2fx", `{"path":"a","num_parts":1}`, 400},
		{"create/" + folder, `{"path":"..","num_parts":1}`, 400},
		{"abort/" + folder, `{"path":"a"}`, 400},
	} {
		if status, reply := c.raw("POST", mpu+bad.path, bad.body, "application/json"); status != bad.status || !strings.Contains(reply, "INVALID_PARAMETER_VALUE") {
			t.Errorf("%s %s: %d %s", bad.path, bad.body, status, reply)
		}
	}
}

func TestPresignedAddressesAreForStoresOfTheirOwn(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	const up, down = "artifacts/presigned-upload-url", "artifacts/presigned-download-url"
	const ipv = "INVALID_PARAMETER_VALUE"
	c.refused("POST", up, `{"run_id":"`+run+`","path":"a"}`, ipv, "Presigned upload is not supported for proxied artifact storage (artifact URI scheme: mlflow-artifacts).")
	c.refused("POST", up, `{"path":"a"}`, ipv, "Exactly one of run_id and model_id must be provided.")
	c.refused("POST", up, `{"run_id":"a","model_id":"m","path":"a"}`, ipv, "Exactly one")
	c.refused("POST", up, `{"run_id":"`+run+`","path":"../a"}`, ipv, "Invalid path")
	c.refused("POST", up, `{"run_id":"none","path":"a"}`, "RESOURCE_DOES_NOT_EXIST", "none")
	c.refused("POST", down, `{"run_id":"`+run+`","path":"a"}`, ipv, "Presigned download is not supported for runs with proxied artifact storage")
	c.refused("POST", down, `{"run_id":"`+run+`","path":"a","expiration":604801}`, ipv, "expiration must be between 1 and 604800 seconds (got 604801).")
	c.refused("POST", down, `{"run_id":"`+run+`"}`, ipv, "Missing value for required parameter 'path'")
}
