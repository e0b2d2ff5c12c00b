package main

import (
	"context"
	"io"
	"path"
	"strings"
	"sync"

	"lapis/driver"
	"lapis/ml/blob"
	"lapis/ml/deploy"
	mlenvironment "lapis/ml/environment"
)

// platform makes the packages that scoring scripts find besides those of their
// environment: Flask, inference-schema and the data collector. They are an
// environment of their own, built once for each version of Python and only for
// scripts that name them.
type platform struct {
	blobs   blob.Store
	builder mlenvironment.Builder

	mu   sync.Mutex
	used map[string]bool // hashes of the environments that were handed out
}

// How much of a script's folder is read for what it names.
const (
	maxSources    = 200
	maxSourceSize = 256 << 10 // bytes of each
)

// packages returns the folder of the packages that a deployment needs and its
// environment lacks; "" if there are none.
func (p *platform) packages(ctx context.Context, s deploy.Spec, env mlenvironment.Built, log io.Writer) (string, error) {
	var sources [][]byte
	if s.Code != nil {
		var err error
		if sources, err = p.sources(ctx, s); err != nil {
			return "", err
		}
	}
	if s.Flavor == "mlflow" && len(s.Kept) > 0 {
		sources = append(sources, []byte("azureml.ai"))
	}
	lines := driver.Lacking(env.Dir, sources)
	if len(lines) == 0 {
		return "", nil
	}
	version := env.Python
	if parts := strings.SplitN(version, ".", 3); len(parts) == 3 {
		version = parts[0] + "." + parts[1]
	}
	built, err := p.builder.Build(ctx, mlenvironment.Recipe{Python: version, Pip: lines}, log)
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used == nil {
		p.used = map[string]bool{}
	}
	p.used[built.Hash] = true
	return driver.Site(built.Dir), nil
}

// uses tells whether scripts use the environment of that hash.
func (p *platform) uses(hash string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used[hash]
}

// sources reads the Python files of a deployment's code.
func (p *platform) sources(ctx context.Context, s deploy.Spec) ([][]byte, error) {
	var sources [][]byte
	for after := ""; ; {
		page, err := p.blobs.List(ctx, s.Code.Container, blob.Query{Prefix: s.Code.Prefix, After: after})
		if err != nil {
			return nil, err
		}
		for _, b := range page.Blobs {
			if path.Ext(b.Key) != ".py" || b.Size == 0 || len(sources) == maxSources {
				continue
			}
			text, err := p.read(ctx, s.Code.Container, b.Key)
			if err != nil {
				return nil, err
			}
			sources = append(sources, text)
		}
		if after = page.Next; after == "" || len(sources) == maxSources {
			return sources, nil
		}
	}
}

func (p *platform) read(ctx context.Context, c blob.Container, key string) ([]byte, error) {
	r, _, err := p.blobs.Open(ctx, c, key, 0, maxSourceSize)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxSourceSize))
}
