package blobhttp_test

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"lapis/edge/blobhttp"
	"lapis/ml/blob"
	"lapis/resource/identity"
)

// Whatever a client with a good signature sends is never the server's fault,
// and touches no container but its own.
func FuzzServe(f *testing.F) {
	s := serve(f)
	other := blob.Container{Account: "store1", Name: "other"}
	if err := s.store.CreateContainer(f.Context(), other); err != nil {
		f.Fatal(err)
	}
	handler := blobhttp.New(s.store, s.sas, s.cfg)
	sas := s.sign(identity.Grant{Permissions: "racwdl"})
	f.Add("PUT", "/data/a/b", "", "x-ms-blob-type: BlockBlob", "text")
	f.Add("PUT", "/data/../other/b", "", "x-ms-blob-type: BlockBlob\nIf-None-Match: *", "text")
	f.Add("PUT", "/data/..%2Fother/b", "comp=block&blockid=QUFB", "Content-MD5: QUFB", "text")
	f.Add("PUT", "/data/a", "comp=blocklist", "x-ms-meta-a: b", "<BlockList><Latest>QUFB</Latest></BlockList>")
	f.Add("GET", "/data/a/b", "", "x-ms-range: bytes=0-1", "")
	f.Add("GET", "/data", "restype=container&comp=list&prefix=a&delimiter=/&marker=YQ&maxresults=1&include=metadata", "", "")
	f.Add("GET", "/data/a", "comp=blocklist&blocklisttype=all", "", "")
	f.Add("HEAD", "/blob/store1/data/a", "", "If-Match: *", "")
	f.Add("PUT", "/data/a", "", "x-ms-copy-source: https://example.com/data/a/b", "")
	f.Add("DELETE", "/data/a", "", "", "")
	f.Fuzz(func(t *testing.T, method, path, query, headers, body string) {
		if strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || method == "" {
			return
		}
		decoded, err := url.PathUnescape(path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		r := httptest.NewRequest(method, "https://example.com/", strings.NewReader(body))
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = decoded, path, sas+"&"+query
		for line := range strings.SplitSeq(headers, "\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code < 200 {
			t.Fatalf("%s %q %q %q: %d %s", method, path, query, headers, w.Code, w.Body)
		}
		page, err := s.store.List(t.Context(), other, blob.Query{})
		if err != nil || len(page.Blobs) > 0 {
			t.Fatalf("%s %q reached another container: %v, %v", method, path, page.Blobs, err)
		}
	})
}
