package blobhttp_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lapis/backend/disk"
	"lapis/edge/blobhttp"
	"lapis/fault"
	"lapis/ml/blob"
	"lapis/resource/identity"
)

var home = blob.Container{Account: "store1", Name: "data"}

type rig struct {
	*httptest.Server
	store *disk.Store
	sas   *identity.SAS
	cfg   blobhttp.Config
}

// serve starts a server with an empty container "data" of account "store1".
func serve(t testing.TB) *rig {
	t.Helper()
	store, err := disk.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.CreateContainer(context.Background(), home); err != nil {
		t.Fatal(err)
	}
	r := &rig{store: store, sas: identity.NewSAS([]byte("0123456789abcdef0123456789abcdef"))}
	r.cfg = blobhttp.Config{
		Authenticate: func(r *http.Request) (identity.Principal, error) {
			name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !ok || name == "forged" {
				return identity.Principal{}, fault.Unknown("the token is forged")
			}
			return identity.Principal{Name: name}, nil
		},
		Authorize: func(_ context.Context, p identity.Principal, account, container string, write bool) error {
			if account != "store1" || (write && p.Name == "reader") {
				return fault.Denied("%s may not", p.Name)
			}
			return nil
		},
		Account: func(_ context.Context, container string) (string, error) {
			if container != "data" {
				return "", fault.NotFound("no such container")
			}
			return "store1", nil
		},
		Reserved: func(name string) bool { return name == "history" },
		Log:      slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	r.Server = httptest.NewTLSServer(blobhttp.New(store, r.sas, r.cfg))
	t.Cleanup(r.Close)
	return r
}

// sign gives a query that is good for an hour.
func (r *rig) sign(g identity.Grant) string {
	if g.Container == "" {
		g.Account, g.Container = home.Account, home.Name
	}
	if g.Expires.IsZero() {
		g.Expires = time.Now().Add(time.Hour)
	}
	return r.sas.Sign(g)
}

func (r *rig) all() string { return r.sign(identity.Grant{Permissions: "racwdl"}) }

// reply is a response, read.
type reply struct {
	*http.Response
	text string
}

// do sends a request. Headers are "Name: value" lines.
func (r *rig) do(t *testing.T, method, address, body string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL+address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		req.Body = http.NoBody
	}
	req.Header.Set("x-ms-version", "2023-11-03")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
		if value == "" {
			req.Header.Del(name)
		}
	}
	res, err := r.Client().Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, address, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, address, err)
	}
	return reply{res, string(b)}
}

func (r reply) want(t *testing.T, status int, code string) {
	t.Helper()
	if r.StatusCode != status || r.Header.Get("x-ms-error-code") != code {
		t.Fatalf("%s %s: %s, code %q, want %d %q\n%s", r.Request.Method, r.Request.URL, r.Status, r.Header.Get("x-ms-error-code"), status, code, r.text)
	}
	if r.Header.Get("x-ms-request-id") == "" || r.Header.Get("x-ms-version") != "2023-11-03" && r.Request.Header.Get("x-ms-version") != "" {
		t.Fatalf("headers are %v", r.Header)
	}
	if status >= 400 && r.Request.Method != "HEAD" && !strings.Contains(r.text, "<Code>"+code+"</Code>") {
		t.Fatalf("the body is %s", r.text)
	}
}

const block = "x-ms-blob-type: BlockBlob"

func TestABlobGoesUpAndComesDown(t *testing.T) {
	s := serve(t)
	q := "?" + s.all()
	sum := md5.Sum([]byte("hello"))
	digest := base64.StdEncoding.EncodeToString(sum[:])
	res := s.do(t, "PUT", "/data/a/b%20c.txt"+q, "hello", block, "If-None-Match: *", "Content-MD5: "+digest, "Content-Type: text/plain", "x-ms-meta-Upload_Status: completed", "x-ms-client-request-id: me")
	res.want(t, 201, "")
	if res.Header.Get("ETag") == "" || res.Header.Get("Last-Modified") == "" || res.Header.Get("x-ms-client-request-id") != "me" {
		t.Fatalf("headers are %v", res.Header)
	}
	res = s.do(t, "GET", "/data/a/b%20c.txt"+q, "")
	res.want(t, 200, "")
	if res.text != "hello" {
		t.Fatalf("got %q", res.text)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/plain", "Content-Length": "5", "Accept-Ranges": "bytes", "x-ms-blob-type": "BlockBlob",
		"x-ms-meta-upload_status": "completed", "Content-MD5": digest,
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	res = s.do(t, "GET", "/blob/store1/data/a/b%20c.txt"+q, "", "x-ms-range: bytes=1-2", "Range: bytes=0-0", "x-ms-range-get-content-md5: true")
	res.want(t, 206, "")
	if res.text != "el" || res.Header.Get("Content-Range") != "bytes 1-2/5" || res.Header.Get("Content-MD5") == "" || res.Header.Get("x-ms-blob-content-md5") != digest {
		t.Fatalf("got %q, %v", res.text, res.Header)
	}
	res = s.do(t, "HEAD", "/data/a/b%20c.txt"+q, "")
	res.want(t, 200, "")
	if res.ContentLength != 5 {
		t.Fatalf("headers are %v", res.Header)
	}
	s.do(t, "DELETE", "/data/a/b%20c.txt"+q, "").want(t, 202, "")
	s.do(t, "HEAD", "/data/a/b%20c.txt"+q, "").want(t, 404, "BlobNotFound")
}

func TestRefusals(t *testing.T) {
	s := serve(t)
	now := time.Now()
	all := "?" + s.all()
	reader := "?" + s.sign(identity.Grant{Permissions: "r"})
	folder := "?" + s.sign(identity.Grant{Permissions: "rcl", Prefix: "logs"})
	expired := "?" + s.sign(identity.Grant{Permissions: "r", Expires: now.Add(-time.Second)})
	other := "?" + s.sign(identity.Grant{Account: "store1", Container: "other", Permissions: "racwdl"})
	gone := "?" + s.sign(identity.Grant{Account: "store1", Container: "gone", Permissions: "racwdl"})
	forged := strings.Replace(reader, "sp=r", "sp=rw", 1)
	s.do(t, "PUT", "/data/k"+all, "hello", block).want(t, 201, "")
	s.do(t, "PUT", "/data/logs/k"+all, "hello", block).want(t, 201, "")
	s.do(t, "PUT", "/data/empty"+all, "", block).want(t, 201, "")
	etag := s.do(t, "HEAD", "/data/k"+all, "").Header.Get("ETag")

	for _, x := range []struct {
		name, method, address, body string
		headers                     []string
		status                      int
		code                        string
	}{
		{"nobody", "GET", "/data/k", "", nil, 401, "NoAuthenticationInformation"},
		{"a browser's Basic", "GET", "/data/k", "", []string{"Authorization: Basic eDp5"}, 401, "NoAuthenticationInformation"},
		{"a forged token", "GET", "/data/k", "", []string{"Authorization: Bearer forged"}, 401, "InvalidAuthenticationInfo"},
		{"a token that may only read", "PUT", "/data/k", "x", []string{block, "Authorization: Bearer reader"}, 403, "AuthorizationPermissionMismatch"},
		{"a token for a container that is not there", "GET", "/none/k", "", []string{"Authorization: Bearer reader"}, 404, "ContainerNotFound"},
		{"a token for another account", "GET", "/blob/store2/data/k", "", []string{"Authorization: Bearer reader"}, 403, "AuthorizationPermissionMismatch"},
		{"an expired signature", "GET", "/data/k" + expired, "", nil, 403, "AuthenticationFailed"},
		{"a forged signature", "PUT", "/data/k" + forged, "x", []string{block}, 403, "AuthenticationFailed"},
		{"a cut signature", "GET", "/data/k" + all[:len(all)-4], "", nil, 403, "AuthenticationFailed"},
		{"another container's signature", "GET", "/data/k" + other, "", nil, 403, "AuthenticationFailed"},
		{"another account in the path", "GET", "/blob/store2/data/k" + all, "", nil, 403, "AuthenticationFailed"},
		{"a bad signature beside a good token", "GET", "/data/k" + expired, "", []string{"Authorization: Bearer reader"}, 403, "AuthenticationFailed"},
		{"a write without the permission", "PUT", "/data/k" + reader, "x", []string{block}, 403, "AuthorizationPermissionMismatch"},
		{"a delete without the permission", "DELETE", "/data/k" + reader, "", nil, 403, "AuthorizationPermissionMismatch"},
		{"a listing without the permission", "GET", "/data" + reader + "&restype=container&comp=list", "", nil, 403, "AuthorizationPermissionMismatch"},
		{"a blob outside of the signed folder", "GET", "/data/k" + folder, "", nil, 403, "AuthenticationFailed"},
		{"a neighbour of the signed folder", "GET", "/data/logs2/k" + folder, "", nil, 403, "AuthenticationFailed"},
		{"the whole listing with a folder's signature", "GET", "/data" + folder + "&restype=container&comp=list&prefix=lo", "", nil, 403, "AuthenticationFailed"},
		{"a new blob over an old one", "PUT", "/data/logs/k" + folder, "x", []string{block}, 409, "BlobAlreadyExists"},
		{"a container of a folder's signature", "PUT", "/data" + folder + "&restype=container", "", nil, 403, "AuthorizationPermissionMismatch"},
		{"a missing blob", "GET", "/data/none" + all, "", nil, 404, "BlobNotFound"},
		{"a missing blob's properties", "HEAD", "/data/none" + all, "", nil, 404, "BlobNotFound"},
		{"a missing container", "GET", "/gone/k" + gone, "", nil, 404, "ContainerNotFound"},
		{"an upload to a missing container", "PUT", "/gone/k" + gone, "x", []string{block}, 404, "ContainerNotFound"},
		{"a path that climbs", "GET", "/data/a/../../etc/passwd" + all, "", nil, 400, "InvalidUri"},
		{"an encoded path that climbs", "GET", "/data/..%2F..%2Fetc%2Fpasswd" + all, "", nil, 400, "InvalidUri"},
		{"a path that climbs, for an upload", "PUT", "/data/..%2Fx" + all, "x", []string{block}, 400, "InvalidUri"},
		{"a name of bytes that are no text", "GET", "/data/%ff" + all, "", nil, 400, "InvalidUri"},
		{"a name with NUL", "GET", "/data/a%00b" + all, "", nil, 400, "InvalidUri"},
		{"a name that is too long", "GET", "/data/" + strings.Repeat("x", 1025) + all, "", nil, 400, "InvalidUri"},
		{"no container", "GET", "/" + all, "", nil, 400, "InvalidUri"},
		{"a container without restype", "GET", "/data" + all, "", nil, 400, "InvalidUri"},
		{"a broken query", "GET", "/data/k" + all + "&x=%zz", "", nil, 400, "InvalidUri"},
		{"a new upload over an old blob", "PUT", "/data/k" + all, "x", []string{block, "If-None-Match: *"}, 409, "BlobAlreadyExists"},
		{"a changed blob", "PUT", "/data/k" + all, "x", []string{block, `If-Match: "0x0"`}, 412, "ConditionNotMet"},
		{"a changed blob, read", "GET", "/data/k" + all, "", []string{`If-Match: "0x0"`}, 412, "ConditionNotMet"},
		{"an unchanged blob, read", "GET", "/data/k" + all, "", []string{"If-None-Match: " + etag}, 304, "ConditionNotMet"},
		{"an unchanged blob by date", "GET", "/data/k" + all, "", []string{"If-Modified-Since: " + now.Add(time.Hour).UTC().Format(http.TimeFormat)}, 304, "ConditionNotMet"},
		{"a blob changed since", "PUT", "/data/k" + all, "x", []string{block, "If-Unmodified-Since: " + now.Add(-time.Hour).UTC().Format(http.TimeFormat)}, 412, "ConditionNotMet"},
		{"a range past the end", "GET", "/data/k" + all, "", []string{"x-ms-range: bytes=5-9"}, 416, "InvalidRange"},
		{"a range of an empty blob", "GET", "/data/empty" + all, "", []string{"x-ms-range: bytes=0-33554431"}, 416, "InvalidRange"},
		{"an open range of an empty blob", "GET", "/data/empty" + all, "", []string{"Range: bytes=0-"}, 416, "InvalidRange"},
		{"no blob type", "PUT", "/data/k" + all, "x", nil, 400, "MissingRequiredHeader"},
		{"an append blob", "PUT", "/data/k" + all, "", []string{"x-ms-blob-type: AppendBlob"}, 400, "InvalidHeaderValue"},
		{"a page blob", "PUT", "/data/k" + all, "", []string{"x-ms-blob-type: PageBlob"}, 400, "InvalidHeaderValue"},
		{"an append", "PUT", "/data/k" + all + "&comp=appendblock", "x", nil, 400, "InvalidQueryParameterValue"},
		{"a lease", "PUT", "/data/k" + all + "&comp=lease", "", nil, 400, "InvalidQueryParameterValue"},
		{"a snapshot", "GET", "/data/k" + all + "&snapshot=2026", "", nil, 400, "UnsupportedQueryParameter"},
		{"another verb", "PATCH", "/data/k" + all, "", nil, 405, "UnsupportedHttpVerb"},
		{"a body that was changed", "PUT", "/data/k" + all, "x", []string{block, "Content-MD5: XUFAKrxLKna5cZ2REBfFkg=="}, 400, "Md5Mismatch"},
		{"a sum that is none", "PUT", "/data/k" + all, "x", []string{block, "Content-MD5: abc"}, 400, "InvalidMd5"},
		{"a bad metadata name", "PUT", "/data/k" + all + "&comp=metadata", "", []string{"x-ms-meta-a-b: 1"}, 400, "InvalidMetadata"},
		{"too much metadata", "PUT", "/data/k" + all + "&comp=metadata", "", []string{"x-ms-meta-a: " + strings.Repeat("x", 9000)}, 400, "MetadataTooLarge"},
		{"a block id that is no base64", "PUT", "/data/k" + all + "&comp=block&blockid=!", "x", nil, 400, "InvalidQueryParameterValue"},
		{"a block list of nothing known", "PUT", "/data/k" + all + "&comp=blocklist", "<BlockList><Latest>QUFB</Latest></BlockList>", nil, 400, "InvalidBlockList"},
		{"a block list that is no XML", "PUT", "/data/k" + all + "&comp=blocklist", "<BlockList><Latest>", nil, 400, "InvalidXmlDocument"},
		{"another document", "PUT", "/data/k" + all + "&comp=blocklist", "<A/>", nil, 400, "InvalidXmlDocument"},
		{"a bad page size", "GET", "/data" + all + "&restype=container&comp=list&maxresults=0", "", nil, 400, "OutOfRangeQueryParameterValue"},
		{"a bad marker", "GET", "/data" + all + "&restype=container&comp=list&marker=%21", "", nil, 400, "InvalidQueryParameterValue"},
		{"a copy from elsewhere", "PUT", "/data/copy" + all, "", []string{"x-ms-copy-source: https://example.com/data/k"}, 400, "CannotVerifyCopySource"},
		{"a copy of an unsigned container", "PUT", "/data/copy" + all, "", []string{"x-ms-copy-source: " + s.URL + "/other/k"}, 400, "CannotVerifyCopySource"},
		{"a container that is there", "PUT", "/data" + all + "&restype=container", "", nil, 409, "ContainerAlreadyExists"},
	} {
		t.Run(x.name, func(t *testing.T) {
			s.do(t, x.method, x.address, x.body, x.headers...).want(t, x.status, x.code)
		})
	}
	res := s.do(t, "GET", "/data/k"+all, "")
	if res.text != "hello" || res.Header.Get("ETag") != etag {
		t.Fatalf("a refused request changed the blob: %q", res.text)
	}
	page, err := s.store.List(t.Context(), home, blob.Query{})
	if err != nil || len(page.Blobs) != 3 {
		t.Fatalf("a refused request left something: %+v, %v", page, err)
	}
}

func TestATokenOpensWhatItsPrincipalMay(t *testing.T) {
	s := serve(t)
	s.do(t, "PUT", "/data/k", "hello", block, "Authorization: Bearer writer").want(t, 201, "")
	for _, address := range []string{"/data/k", "/blob/store1/data/k"} {
		if res := s.do(t, "GET", address, "", "Authorization: Bearer reader"); res.text != "hello" {
			t.Fatalf("%s: %s %q", address, res.Status, res.text)
		}
	}
}

func TestASignatureDecidesAlone(t *testing.T) {
	s := serve(t)
	s.do(t, "PUT", "/data/k?"+s.all(), "hello", block, "Authorization: Basic eDp5").want(t, 201, "")
	s.do(t, "GET", "/data/k?"+s.all(), "", "Authorization: Bearer forged").want(t, 200, "")
}

func TestAContainerIsMadeWithItsSignature(t *testing.T) {
	s := serve(t)
	q := "?restype=container&" + s.sign(identity.Grant{Account: "store1", Container: "new", Permissions: "racwdl"})
	s.do(t, "GET", "/new"+q, "").want(t, 404, "ContainerNotFound")
	s.do(t, "PUT", "/new"+q, "").want(t, 201, "")
	s.do(t, "PUT", "/new"+q, "").want(t, 409, "ContainerAlreadyExists")
	s.do(t, "GET", "/new"+q, "").want(t, 200, "")
	q = "?restype=container&" + s.sign(identity.Grant{Account: "store1", Container: "history", Permissions: "racwdl"})
	s.do(t, "PUT", "/history"+q, "").want(t, 400, "InvalidResourceName")
}

func TestALogIsReadByAPlainBrowser(t *testing.T) {
	s := serve(t)
	s.do(t, "PUT", "/data/logs/std_log.txt?"+s.all(), "line 1\n", block).want(t, 201, "")
	s.do(t, "PUT", "/data/page.html?"+s.all(), "<script>", block, "Content-Type: text/html").want(t, 201, "")
	q := "?" + s.sign(identity.Grant{Permissions: "r", Prefix: "logs/std_log.txt", Blob: true})
	res := s.do(t, "GET", "/blob/store1/data/logs/std_log.txt"+q, "", "x-ms-version: ", "Accept-Encoding: gzip, br")
	if res.StatusCode != 200 || res.text != "line 1\n" || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" || res.Header.Get("Cache-Control") != "no-cache" {
		t.Fatalf("%s %q %v", res.Status, res.text, res.Header)
	}
	res = s.do(t, "GET", "/blob/store1/data/logs/std_log.txt"+q, "", "x-ms-version: ", "If-None-Match: "+res.Header.Get("ETag"))
	if res.StatusCode != 304 || res.text != "" {
		t.Fatalf("%s %q", res.Status, res.text)
	}
	res = s.do(t, "GET", "/data/page.html?"+s.all(), "", "x-ms-version: ")
	if !strings.Contains(res.Header.Get("Content-Security-Policy"), "sandbox") || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Fatalf("a page of a user's would run as ours: %v", res.Header)
	}
}

func TestAListingIsAzures(t *testing.T) {
	s := serve(t)
	for _, k := range []string{"a", "b/c", "b/d", "ctl%01", "e"} {
		s.do(t, "PUT", "/data/"+k+"?"+s.all(), "x", block, "x-ms-meta-n: <1>").want(t, 201, "")
	}
	res := s.do(t, "GET", "/data?restype=container&comp=list&delimiter=/&include=metadata&maxresults=3&"+s.all(), "")
	res.want(t, 200, "")
	for _, part := range []string{
		`<EnumerationResults ServiceEndpoint="` + s.URL + `/" ContainerName="data">`,
		`<Blobs><Blob><Name>a</Name><Properties>`, `<Content-Length>1</Content-Length>`, `<BlobType>BlockBlob</BlobType>`,
		`<Metadata><n>&lt;1&gt;</n></Metadata></Blob><BlobPrefix><Name>b/</Name></BlobPrefix><Blob><Name Encoded="true">ctl%01</Name>`,
		`</Blobs><NextMarker>`,
	} {
		if !strings.Contains(res.text, part) {
			t.Fatalf("%s\nis not in\n%s", part, res.text)
		}
	}
	res = s.do(t, "GET", "/data?restype=container&comp=list&prefix=b&"+s.sign(identity.Grant{Permissions: "l", Prefix: "b/d"})+"&x=", "")
	res.want(t, 403, "AuthenticationFailed")
	res = s.do(t, "GET", "/data?restype=container&comp=list&prefix=b&"+s.sign(identity.Grant{Permissions: "l", Prefix: "b"}), "")
	if !strings.Contains(res.text, "<Name>b/c</Name>") || strings.Contains(res.text, "<Metadata>") || !strings.Contains(res.text, "<NextMarker></NextMarker>") {
		t.Fatal(res.text)
	}
}

func TestABlobIsCopiedWithinTheServer(t *testing.T) {
	s := serve(t)
	s.do(t, "PUT", "/data/k?"+s.all(), "hello", block, "x-ms-meta-a: 1").want(t, 201, "")
	res := s.do(t, "PUT", "/data/copy?"+s.all(), "", "x-ms-copy-source: "+s.URL+"/data/k?"+s.all())
	res.want(t, 202, "")
	if res.Header.Get("x-ms-copy-status") != "success" {
		t.Fatalf("headers are %v", res.Header)
	}
	res = s.do(t, "GET", "/data/copy?"+s.all(), "")
	if res.text != "hello" || res.Header.Get("x-ms-meta-a") != "1" {
		t.Fatalf("%q %v", res.text, res.Header)
	}
}

// A line that breaks in the middle of an upload leaves neither a blob nor a
// file behind.
func TestACutUploadLeavesNothing(t *testing.T) {
	s := serve(t)
	plain := httptest.NewServer(blobhttp.New(s.store, s.sas, s.cfg))
	defer plain.Close()
	for _, address := range []string{"/data/k?", "/data/k?comp=block&blockid=QUFB&"} {
		conn, err := net.Dial("tcp", plain.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT %s%s HTTP/1.1\r\nHost: x\r\nx-ms-version: 2023-11-03\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: 1000000\r\n\r\n", address, s.all())
		conn.Write(bytes.Repeat([]byte("x"), 500000))
		conn.(*net.TCPConn).CloseWrite()
		text, _ := io.ReadAll(conn)
		conn.Close()
		if !bytes.HasPrefix(text, []byte("HTTP/1.1 400")) || !bytes.Contains(text, []byte("IncompleteBody")) {
			t.Fatalf("the reply is %q", text)
		}
	}
	s.do(t, "GET", "/data/k?"+s.all(), "").want(t, 404, "BlobNotFound")
	s.do(t, "GET", "/data/k?comp=blocklist&blocklisttype=all&"+s.all(), "").want(t, 404, "BlobNotFound")
}

func TestABodyOverTheLimitIsRefusedBeforeItIsSent(t *testing.T) {
	s := serve(t)
	plain := httptest.NewServer(blobhttp.New(s.store, s.sas, s.cfg))
	defer plain.Close()
	for address, size := range map[string]int64{"/data/k?": blobhttp.MaxPut + 1, "/data/k?comp=block&blockid=QUFB&": blobhttp.MaxBlock + 1} {
		conn, err := net.Dial("tcp", plain.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT %s%s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nx-ms-version: 2023-11-03\r\nx-ms-blob-type: BlockBlob\r\nContent-Length: %d\r\n\r\n", address, s.all(), size)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		text := make([]byte, 4096)
		n, err := conn.Read(text)
		conn.Close()
		if err != nil || !bytes.HasPrefix(text[:n], []byte("HTTP/1.1 413")) || !bytes.Contains(text[:n], []byte("RequestBodyTooLarge")) {
			t.Fatalf("the reply is %q, %v", text[:n], err)
		}
	}
}
