package blobhttp_test

import (
	"bytes"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"lapis/edge/blobhttp"
)

// python finds an interpreter that has azure-storage-blob: LAPIS_TEST_PYTHON,
// else python3.
func python(t testing.TB) string {
	t.Helper()
	bin := os.Getenv("LAPIS_TEST_PYTHON")
	if bin == "" {
		bin = "python3"
	}
	if err := exec.Command(bin, "-c", "import azure.storage.blob").Run(); err != nil {
		t.Skipf("%s has no azure-storage-blob (%v); set LAPIS_TEST_PYTHON to one that has", bin, err)
	}
	return bin
}

// pythonCommand runs a script of testdata with the server's address and a
// signature, as a client is set up by `lapis connect`.
func (r *rig) pythonCommand(t testing.TB, bin, script string, args ...string) *exec.Cmd {
	ca := filepath.Join(t.TempDir(), "ca.crt")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(r.URL, "https://")
	cmd := exec.Command(bin, append([]string{filepath.Join("testdata", script), "https://store1.blob.core.lapis@" + host, "data", r.all()}, args...)...)
	cmd.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE="+ca, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1", "PYTHONDONTWRITEBYTECODE=1")
	return cmd
}

func TestThePythonClientWorksUnmodified(t *testing.T) {
	bin := python(t)
	s := serve(t)
	out, err := s.pythonCommand(t, bin, "story.py").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "story told") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestTheGoClientWorksUnmodified(t *testing.T) {
	s := serve(t)
	t.Run("HTTP/1.1", func(t *testing.T) { goClient(t, s) })

	s = serve(t)
	s.Close()
	s.Server = httptest.NewUnstartedServer(blobhttp.New(s.store, s.sas, s.cfg))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	t.Run("HTTP/2", func(t *testing.T) {
		goClient(t, s)
		if res := s.do(t, "GET", "/data?restype=container&"+s.all(), ""); res.ProtoMajor != 2 {
			t.Fatalf("the client spoke %s", res.Proto)
		}
	})
}

func goClient(t *testing.T, s *rig) {
	ctx := t.Context()
	c, err := container.NewClientWithNoCredential(s.URL+"/data?"+s.all(), &container.ClientOptions{
		ClientOptions: policy.ClientOptions{Transport: s.Client(), Retry: policy.RetryOptions{MaxRetries: -1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetProperties(ctx, nil); err != nil {
		t.Fatal(err)
	}
	wantCode := func(err error, code bloberror.Code) {
		t.Helper()
		if !bloberror.HasCode(err, code) {
			t.Fatalf("error is %v, want %s", err, code)
		}
	}
	_, err = c.Create(ctx, nil)
	wantCode(err, bloberror.ContainerAlreadyExists)

	big := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
	b := c.NewBlockBlobClient("a b/ü/big.bin")
	if _, err := b.UploadStream(ctx, bytes.NewReader(big), &blockblob.UploadStreamOptions{BlockSize: 1 << 20, Concurrency: 4, Metadata: map[string]*string{"Key": to.Ptr("value")}}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(big))
	if _, err := b.DownloadBuffer(ctx, got, &blob.DownloadBufferOptions{BlockSize: 1 << 20, Concurrency: 4}); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("what came down is not what went up: %v", err)
	}
	p, err := b.GetProperties(ctx, nil)
	if err != nil || *p.ContentLength != int64(len(big)) || *p.BlobType != blob.BlobTypeBlockBlob {
		t.Fatalf("properties are %+v, %v", p, err)
	}
	list, err := b.GetBlockList(ctx, blockblob.BlockListTypeAll, nil)
	if err != nil || len(list.CommittedBlocks) != 5 || len(list.UncommittedBlocks) != 0 {
		t.Fatalf("blocks are %+v, %v", list, err)
	}
	if _, err = b.UploadBuffer(ctx, []byte("x"), &blockblob.UploadBufferOptions{AccessConditions: &blob.AccessConditions{
		ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)},
	}}); err == nil {
		t.Fatal("an upload over an old blob was taken")
	}
	wantCode(err, bloberror.BlobAlreadyExists)
	_, err = c.NewBlobClient("none").GetProperties(ctx, nil)
	wantCode(err, bloberror.BlobNotFound)

	for _, name := range []string{"l/1", "l/2", "l/m/3", "l/m/4"} {
		if _, err := c.NewBlockBlobClient(name).UploadBuffer(ctx, []byte(name), nil); err != nil {
			t.Fatal(err)
		}
	}
	var flat, rolled []string
	for pager := c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: to.Ptr("l/"), MaxResults: to.Ptr[int32](3)}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Segment.BlobItems {
			flat = append(flat, *item.Name)
		}
	}
	for pager := c.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: to.Ptr("l/")}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Segment.BlobItems {
			rolled = append(rolled, *item.Name)
		}
		for _, item := range page.Segment.BlobPrefixes {
			rolled = append(rolled, *item.Name)
		}
	}
	if !slices.Equal(flat, []string{"l/1", "l/2", "l/m/3", "l/m/4"}) || !slices.Equal(rolled, []string{"l/1", "l/2", "l/m/"}) {
		t.Fatalf("listed are %q, rolled up %q", flat, rolled)
	}
	if _, err := b.Delete(ctx, nil); err != nil {
		t.Fatal(err)
	}
	_, err = b.Delete(ctx, nil)
	wantCode(err, bloberror.BlobNotFound)
}
