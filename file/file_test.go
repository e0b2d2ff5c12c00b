package file

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAFileIsReplacedWithItsRights(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.json")
	for _, text := range []string{"the first", "the second, which is longer", ""} {
		if err := Replace(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("the file holds %q, %v; want %q", got, err, text)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("the file's mode is %v, %v", st.Mode(), err)
	}
	only(t, path)
}

func TestAFileThatCannotBeMadeWholeLeavesTheOldOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the connection broke")
	err := Whole(path, 0o600, func(f *os.File) error {
		if !Unfinished(f.Name()) {
			t.Errorf("%s does not look unfinished", f.Name())
		}
		if _, err := f.WriteString("half of the ne"); err != nil {
			t.Error(err)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("the reason became %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	only(t, path)
}

func TestAFolderThatIsNotThereIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone", "file")
	if err := Replace(path, nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// only checks that nothing lies beside the file.
func only(t *testing.T, path string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(list) != 1 || list[0].Name() != filepath.Base(path) || Unfinished(path) {
		t.Errorf("the folder holds %v, %v", list, err)
	}
}
