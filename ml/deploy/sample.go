package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"lapis/ml/serving"
)

// maxZeros bounds the numbers of an input that is made up.
const maxZeros = 1 << 20

// try has an instance of a new generation score what can be found out to be a
// request, where the model came with none: the sample input of a script's schema,
// which it must score, or for a native model zeros of the shapes that it declares,
// which it may refuse, and then the log says so.
func (d *Deployer) try(ctx context.Context, g *group, log io.Writer) error {
	if g.spec.Sample != nil {
		return nil // scored already
	}
	d.mu.Lock()
	in, ok := oneReady(g, serving.Group{Instances: g.instances})
	d.mu.Unlock()
	if !ok {
		return nil
	}
	switch {
	case g.spec.Flavor == "script":
		s := d.documented(ctx, g, in)
		if s == nil {
			return nil
		}
		d.stage(ctx, g.deployment, log, "Scoring the sample input of the script's schema")
		a, err := d.ask(ctx, g, in, *s)
		if err != nil {
			return unanswered(ctx, "the sample input of its schema", err)
		}
		if a.Status >= 500 {
			return &crash{"The script does not score the sample input of its own schema: " + said(a.Body), string(a.Body)}
		}
		if a.Status >= 400 {
			d.say(log, "The script refuses the sample input of its own schema: "+said(a.Body))
		}
	case g.spec.Runtime == serving.Native:
		d.stage(ctx, g.deployment, log, "Scoring zeros of the model's shape")
		for _, s := range d.zeros(ctx, in) {
			a, err := d.ask(ctx, g, in, s)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				d.say(log, fmt.Sprintf("Zeros of the shape that the model declares got no answer, so nothing has been scored yet: %v", err))
			} else if a.Status >= 400 {
				d.say(log, "The model refuses zeros of the shape that it declares, so nothing has been scored yet: "+said(a.Body))
			}
		}
	}
	return nil
}

// read asks an instance for a document; nil if it has none.
func (d *Deployer) read(ctx context.Context, in serving.Instance, target string) []byte {
	a, err := d.Groups.Ask(ctx, in, serving.Question{Method: "GET", Target: target, Timeout: sampleWithin})
	if err != nil || a.Status != 200 {
		return nil
	}
	return a.Body
}

// documented is the sample input in the swagger document of a script whose run()
// has a schema; nil if there is none.
func (d *Deployer) documented(ctx context.Context, g *group, in serving.Instance) *Sample {
	type input struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Example    json.RawMessage            `json:"example"`
	}
	var document struct {
		Definitions struct {
			Input input `json:"ServiceInput"`
		} `json:"definitions"`
		Components struct {
			Schemas struct {
				Input input `json:"ServiceInput"`
			} `json:"schemas"`
		} `json:"components"`
	}
	for _, version := range []string{"2", "3", "3.1"} {
		if json.Unmarshal(d.read(ctx, in, "/swagger.json?version="+version), &document) != nil {
			continue
		}
		for _, found := range []input{document.Definitions.Input, document.Components.Schemas.Input} {
			var example map[string]json.RawMessage
			if len(found.Properties) > 0 && len(found.Example) <= maxSample && json.Unmarshal(found.Example, &example) == nil && len(example) > 0 {
				return &Sample{Target: g.spec.ScoringPath, Body: found.Example}
			}
		}
	}
	return nil
}

// declared is a tensor that a model declares, as the Open Inference Protocol has it.
type declared struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

// zeros are requests with zeros for the models of an instance. A dimension that is
// free is 1.
func (d *Deployer) zeros(ctx context.Context, in serving.Instance) []Sample {
	var models []struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	if json.Unmarshal(d.read(ctx, in, "/v2/models"), &models) != nil {
		return nil
	}
	var out []Sample
	for _, m := range models {
		path := "/v2/models/" + url.PathEscape(m.Name)
		if m.Version != "" {
			path += "/versions/" + url.PathEscape(m.Version)
		}
		var model struct {
			Inputs []declared `json:"inputs"`
		}
		if json.Unmarshal(d.read(ctx, in, path), &model) != nil {
			continue
		}
		if body := zeroRequest(model.Inputs); body != nil {
			out = append(out, Sample{Target: path + "/infer", Body: body})
		}
	}
	return out
}

// zeroRequest is a request of the Open Inference Protocol with zeros for the
// inputs, or false, or empty texts; nil if it would be too large.
func zeroRequest(inputs []declared) json.RawMessage {
	var b bytes.Buffer
	b.WriteString(`{"inputs":[`)
	left := int64(maxZeros)
	for i, in := range inputs {
		zero, count := "0", int64(1)
		switch strings.ToUpper(in.Datatype) {
		case "BOOL":
			zero = "false"
		case "BYTES":
			zero = `""`
		case "FP16", "BF16":
			return nil // has no form in JSON
		}
		shape := make([]int64, len(in.Shape))
		for n, size := range in.Shape {
			shape[n] = max(size, 1)
			if shape[n] > left {
				return nil
			}
			if count *= shape[n]; count > left {
				return nil
			}
		}
		left -= count
		if i > 0 {
			b.WriteByte(',')
		}
		head, err := json.Marshal(map[string]any{"name": in.Name, "datatype": in.Datatype, "shape": shape})
		if err != nil {
			return nil
		}
		b.Write(head[:len(head)-1])
		b.WriteString(`,"data":[` + strings.TrimSuffix(strings.Repeat(zero+",", int(count)), ",") + `]}`)
	}
	b.WriteString("]}")
	return b.Bytes()
}
