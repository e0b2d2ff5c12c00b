package model

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"lapis/native/onnx"
	"lapis/native/tensor"
)

// onnxRunner runs a session of ONNX Runtime.
type onnxRunner struct{ session *onnx.Session }

// running bounds how many runs compute at once: more only take turns on the
// cores, each with caches of its own.
var running = make(chan struct{}, max(2, runtime.NumCPU()))

func (r *onnxRunner) Run(inputs []tensor.Tensor, wanted []int, deadline time.Time) ([]tensor.Tensor, error) {
	select {
	case running <- struct{}{}:
	default:
		if deadline.IsZero() {
			running <- struct{}{}
			break
		}
		late := time.NewTimer(time.Until(deadline))
		defer late.Stop()
		select {
		case running <- struct{}{}:
		case <-late.C:
			return nil, ErrDeadline
		}
	}
	defer func() { <-running }()
	out, err := r.session.Run(inputs, wanted, deadline)
	if err == nil {
		return out, nil
	}
	if !deadline.IsZero() && !time.Now().Before(deadline) {
		return nil, ErrDeadline
	}
	var said *onnx.Error
	if errors.As(err, &said) {
		return nil, &InputError{"onnx runtime error: " + said.Message}
	}
	return nil, err
}

// OpenONNX loads an ONNX model from a file.
func OpenONNX(lib *onnx.Library, file, name, version string) (*Model, error) {
	s, err := lib.Open(file, onnx.Options{Threads: 1})
	if err != nil {
		return nil, fmt.Errorf("%s is no ONNX model that can be loaded: %w", filepath.Base(file), err)
	}
	return &Model{Name: name, Version: version, Platform: "onnxruntime_onnx", Inputs: s.Inputs, Outputs: s.Outputs, Runner: &onnxRunner{s}}, nil
}
