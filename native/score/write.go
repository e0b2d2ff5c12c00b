package score

import (
	"encoding/json"
	"fmt"

	"lapis/frame"

	"lapis/native/tensor"
)

// write writes what the model gave.
func (c *call) write(out []tensor.Tensor, a *frame.Reply) error {
	b := a.Body
	if !c.azure {
		b = append(b, `{"predictions": `...)
	}
	var err error
	if c.server.flavor != "onnx" {
		b = appendValues(b, &out[0])
	} else if c.data.table != nil && c.server.mlmodel != nil {
		b, err = appendRecords(b, out)
	} else {
		b = append(b, '{')
		for i := range out {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(tensor.AppendString(b, out[i].Name), ": "...)
			b = appendValues(b, &out[i])
		}
		b = append(b, '}')
	}
	if !c.azure {
		b = append(b, '}')
	}
	a.Body = b
	return err
}

// appendValues appends a tensor as nested lists; one of maps, as a list of
// objects.
func appendValues(b []byte, t *tensor.Tensor) []byte {
	if t.Keys == nil {
		return t.AppendNested(b, t.Shape, 0)
	}
	b = append(b, '[')
	for row := range int(t.Shape[0]) {
		if row > 0 {
			b = append(b, ", "...)
		}
		b = appendMap(b, t, row)
	}
	return append(b, ']')
}

func appendMap(b []byte, t *tensor.Tensor, row int) []byte {
	b = append(b, '{')
	for i, key := range t.Keys {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(tensor.AppendString(b, key), ": "...)
		b = t.AppendJSON(b, row*len(t.Keys)+i)
	}
	return append(b, '}')
}

// appendRecords appends outputs as the rows of a table: each output a column,
// flat, so all must have the same number of elements.
func appendRecords(b []byte, out []tensor.Tensor) ([]byte, error) {
	length := func(t *tensor.Tensor) int {
		if t.Keys != nil {
			return int(t.Shape[0])
		}
		return t.Len()
	}
	for i := range out {
		if length(&out[i]) != length(&out[0]) {
			return b, &badRun{"ValueError: All arrays must be of the same length"}
		}
	}
	b = append(b, '[')
	for row := range length(&out[0]) {
		if row > 0 {
			b = append(b, ", "...)
		}
		b = append(b, '{')
		for i := range out {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(tensor.AppendString(b, out[i].Name), ": "...)
			if out[i].Keys != nil {
				b = appendMap(b, &out[i], row)
			} else {
				b = out[i].AppendJSON(b, row)
			}
		}
		b = append(b, '}')
	}
	return append(b, ']'), nil
}

// swagger is the description of /score, with an example of what it takes.
func swagger(s *Server) []byte {
	input := map[string]any{"type": "object", "example": map[string]any{}}
	if s.model != nil {
		input = inputSchema(s)
	}
	errs := map[string]any{"description": "An unexpected error happened", "schema": map[string]any{"type": "object"}}
	doc := map[string]any{
		"swagger": "2.0",
		"info":    map[string]any{"title": "ML service", "description": "API specification for the Azure Machine Learning service ML service", "version": "1.0"},
		"schemes": []string{"https"}, "consumes": []string{"application/json"}, "produces": []string{"application/json"},
		"securityDefinitions": map[string]any{"Bearer": map[string]any{"type": "apiKey", "name": "Authorization", "in": "header", "description": "For example: Bearer abc123"}},
		"paths": map[string]any{
			"/": map[string]any{"get": map[string]any{"operationId": "ServiceHealthCheck", "description": "Simple health check endpoint to ensure the service is up at any given point.",
				"responses": map[string]any{"200": map[string]any{"description": "If service is up and running, this response will be returned with the content 'Healthy'", "schema": map[string]any{"type": "string"}}, "default": errs}}},
			"/score": map[string]any{"post": map[string]any{"operationId": "RunMLService", "description": "Run web service's model and get the prediction output", "security": []any{map[string]any{"Bearer": []any{}}},
				"parameters": []any{map[string]any{"name": "serviceInputPayload", "in": "body", "description": "The input payload for executing the real-time machine learning service.", "schema": map[string]any{"$ref": "#/definitions/ServiceInput"}}},
				"responses":  map[string]any{"200": map[string]any{"description": "The service processed the input correctly and provided a result prediction, if applicable.", "schema": map[string]any{"$ref": "#/definitions/ServiceOutput"}}, "default": errs}}},
		},
		"definitions": map[string]any{"ServiceInput": input, "ServiceOutput": map[string]any{"type": "object"}},
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return []byte("{}")
	}
	return b
}

// inputSchema describes the body of /score.
func inputSchema(s *Server) map[string]any {
	var example any
	if in := s.inputs(); len(in) > 0 && in[0].Tensor == nil {
		columns, row := []string{}, []any{}
		for i, c := range in {
			name := c.Name
			if name == "" {
				name = fmt.Sprint(i)
			}
			columns = append(columns, name)
			switch c.Kind {
			case "string":
				row = append(row, "sample string")
			case "boolean":
				row = append(row, true)
			case "double", "float":
				row = append(row, 0.0)
			default:
				row = append(row, 0)
			}
		}
		example = map[string]any{"columns": columns, "index": []int{0}, "data": []any{row}}
	} else if len(s.model.Inputs) == 1 {
		example = zeros(s.model.Inputs[0])
	} else {
		named := map[string]any{}
		for _, i := range s.model.Inputs {
			named[i.Name] = zeros(i)
		}
		example = named
	}
	kind := "object"
	if _, array := example.([]any); array {
		kind = "array"
	}
	inner := map[string]any{"type": kind, "example": example}
	if kind == "array" {
		inner["items"] = map[string]any{}
	}
	return map[string]any{"type": "object", "properties": map[string]any{"input_data": inner}, "required": []string{"input_data"},
		"example": map[string]any{"input_data": example}}
}

// zeros is an example of an input: one row, and one of each open length.
func zeros(i tensor.Info) any {
	const most = 10000
	n := int64(1)
	for _, d := range i.Shape {
		if n *= max(d, 1); n > most {
			return []any{}
		}
	}
	var make func(shape []int64) any
	make = func(shape []int64) any {
		if len(shape) == 0 {
			switch i.Type {
			case tensor.Bytes:
				return "sample string"
			case tensor.Bool:
				return false
			case tensor.Float16, tensor.Float32, tensor.Float64, tensor.BFloat16:
				return 0.0
			}
			return 0
		}
		out := []any{}
		for range max(shape[0], 1) {
			out = append(out, make(shape[1:]))
		}
		return out
	}
	return make(i.Shape)
}
