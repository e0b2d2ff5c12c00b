package disk

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"lapis/ml/blob"
)

// header is the small file that makes a blob. Its first line is this struct,
// its second the blocks, which only few readers need.
type header struct {
	Key      string          `json:"key"` // for people and for repairs
	ETag     string          `json:"etag"`
	Created  time.Time       `json:"created"`
	Modified time.Time       `json:"modified"`
	Size     int64           `json:"size"`
	Data     string          `json:"data"`            // token in the name of the bytes
	Parts    bool            `json:"parts,omitempty"` // the bytes are a folder of parts
	Set      blob.Attributes `json:"set"`
	blocks   []block
}

// block is one block of a committed blob.
type block struct {
	ID   string `json:"id"`
	Size int64  `json:"size"`
	Part int    `json:"part"` // number of the part; in a single file blocks follow each other
}

func (h *header) info() blob.Info {
	i := blob.Info{
		Key: h.Key, Size: h.Size, ETag: h.ETag, Modified: h.Modified, Created: h.Created,
		Attributes: h.Set,
	}
	if i.ContentType == "" {
		i.ContentType = "application/octet-stream"
	}
	return i
}

// read returns the header at a path, or nil if there is none.
func (s *Store) read(file string, withBlocks bool) (*header, error) {
	return readHeader(s.root, file, withBlocks)
}

func readHeader(root *os.Root, file string, withBlocks bool) (*header, error) {
	f, err := root.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("blob header: %w", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 2048)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("blob header %s: %w", file, err)
	}
	h := new(header)
	if err := json.Unmarshal(line, h); err != nil {
		return nil, fmt.Errorf("blob header %s: %w", file, err)
	}
	if withBlocks {
		line, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("blob header %s: %w", file, err)
		}
		if err := json.Unmarshal(line, &h.blocks); err != nil {
			return nil, fmt.Errorf("blob header %s: %w", file, err)
		}
	}
	return h, nil
}

// write makes the header's file, fsynced.
func (s *Store) write(file string, h *header) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	if err := e.Encode(h); err != nil {
		return err
	}
	if err := e.Encode(h.blocks); err != nil {
		return err
	}
	f, err := s.root.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
