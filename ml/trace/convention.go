package trace

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// convention is how a family of libraries names what MLflow has names for.
type convention struct {
	kind            string            // the attribute that says what a span is
	types           map[string]string // its values → MLflow's types of spans
	input, output   string            // counts of tokens
	total           string
	read            string
	written         []string
	inputs, outputs []string
	model           []string
	owner           string
	tools           string
}

// conventions are asked in this order; the first that knows an attribute has it.
var conventions = []convention{
	{ // OpenInference
		kind: "openinference.span.kind",
		types: map[string]string{"TOOL": "TOOL", "CHAIN": "CHAIN", "LLM": "LLM", "RETRIEVER": "RETRIEVER", "EMBEDDING": "EMBEDDING",
			"AGENT": "AGENT", "RERANKER": "RERANKER", "UNKNOWN": "UNKNOWN", "GUARDRAIL": "GUARDRAIL", "EVALUATOR": "EVALUATOR"},
		input: "llm.token_count.prompt", output: "llm.token_count.completion", total: "llm.token_count.total",
		read: "llm.token_count.prompt_details.cache_read", written: []string{"llm.token_count.prompt_details.cache_write"},
		inputs: []string{"input.value"}, outputs: []string{"output.value"},
		model: []string{"llm.response.model_name", "llm.model_name", "llm.request.model_name", "embedding.model_name"}, owner: "llm.provider",
	},
	{ // OpenTelemetry's own, for generative models
		kind: "gen_ai.operation.name",
		types: map[string]string{"chat": "CHAT_MODEL", "create_agent": "AGENT", "embeddings": "EMBEDDING", "execute_tool": "TOOL",
			"generate_content": "LLM", "invoke_agent": "AGENT", "text_completion": "LLM", "response": "LLM"},
		input: "gen_ai.usage.input_tokens", output: "gen_ai.usage.output_tokens", read: "gen_ai.usage.cache_read.input_tokens",
		written: []string{"gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens"},
		inputs:  []string{"gen_ai.input.messages", "gen_ai.tool.call.arguments"}, outputs: []string{"gen_ai.output.messages", "gen_ai.tool.call.result"},
		model: []string{"gen_ai.response.model", "gen_ai.request.model"}, owner: "gen_ai.provider.name", tools: "gen_ai.tool.definitions",
	},
	{ // Traceloop
		kind:  "traceloop.span.kind",
		types: map[string]string{"workflow": "WORKFLOW", "task": "TASK", "agent": "AGENT", "tool": "TOOL", "unknown": "UNKNOWN"},
		input: "gen_ai.usage.prompt_tokens", output: "gen_ai.usage.completion_tokens", total: "llm.usage.total_tokens",
		inputs: []string{"traceloop.entity.input"}, outputs: []string{"traceloop.entity.output"}, owner: "gen_ai.system",
	},
}

// of returns an attribute of a span, nil if it is not there.
func (s *span) of(key string) *value {
	if i := find(s.attributes, key); i >= 0 {
		return &s.attributes[i].value
	}
	return nil
}

// full is of for values that say something.
func (s *span) full(key string) *value {
	v := s.of(key)
	if v == nil || v.empty() {
		return nil
	}
	return v
}

func (v *value) empty() bool {
	switch v.kind {
	case aString, aBytes:
		return len(v.text) == 0
	case aBool, anInt:
		return v.num == 0
	case aDouble:
		return math.Float64frombits(v.num) == 0
	case anArray:
		return len(v.items) == 0
	case aList:
		return len(v.pairs) == 0
	}
	return true
}

func (s *span) add(key string, v value) {
	s.attributes = append(s.attributes, pair{[]byte(key), v})
}

func textValue(s string) value { return value{kind: aString, text: []byte(s)} }

// foreign tells whether a key may be one of a convention.
func foreign(key []byte) bool {
	for _, start := range []string{"gen_ai.", "llm.", "openinference.", "traceloop.", "input.value", "output.value", "embedding.model_name"} {
		if len(key) >= len(start) && string(key[:len(start)]) == start {
			return true
		}
	}
	return false
}

// translate adds MLflow's attributes to a span of another convention, and what
// the model was, if its inputs or outputs say so.
func (s *span) translate() {
	if slices.ContainsFunc(s.attributes, func(p pair) bool { return foreign(p.key) }) {
		s.convert()
	}
	if s.of(modelAttribute) == nil {
		for _, key := range []string{inputsAttribute, outputsAttribute} {
			v := s.of(key)
			if v == nil || v.kind != aList {
				continue
			}
			if i := find(v.pairs, "model"); i >= 0 && !v.pairs[i].value.empty() {
				if m := v.pairs[i].value; m.kind == aString {
					s.add(modelAttribute, value{kind: aString, text: m.text})
				}
				break
			}
		}
	}
}

func (s *span) convert() {
	if t := s.of(typeAttribute); t == nil || t.kind == 0 || t.plain() == "UNKNOWN" || t.empty() {
		for i := range conventions {
			k := s.full(conventions[i].kind)
			if k == nil {
				continue
			}
			if found, ok := conventions[i].types[k.plain()]; ok {
				if t == nil {
					s.add(typeAttribute, textValue(found))
				} else {
					*t = textValue(found)
				}
				break
			}
		}
	}
	first := func(as string, of func(c *convention) *value) {
		if s.of(as) != nil {
			return
		}
		for i := range conventions {
			if v := of(&conventions[i]); v != nil {
				s.add(as, *v)
				return
			}
		}
	}
	among := func(keys ...string) *value {
		for _, k := range keys {
			if v := s.full(k); v != nil {
				return v
			}
		}
		return nil
	}
	first(inputsAttribute, func(c *convention) *value { return among(c.inputs...) })
	first(outputsAttribute, func(c *convention) *value { return among(c.outputs...) })
	first(usageAttribute, s.counts)
	first(toolsAttribute, func(c *convention) *value { return among(c.tools) })
	first(modelAttribute, func(c *convention) *value { return among(c.model...) })
	first(ownerAttribute, func(c *convention) *value { return among(c.owner) })
}

// Kinds of tokens, as MLflow counts them.
var tokenKinds = []string{"input_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation_input_tokens_above_1hr"}

// costKinds are what is paid for, in dollars.
var costKinds = []string{"input_cost", "output_cost", "total_cost"}

// counts are the tokens that a span says it used.
func (s *span) counts(c *convention) *value {
	count := func(keys ...string) (int64, bool) {
		for _, key := range keys {
			if v := s.of(key); v != nil {
				if v.kind == anInt {
					return int64(v.num), true
				}
				n, err := strconv.ParseInt(v.plain(), 10, 64)
				return n, err == nil
			}
		}
		return 0, false
	}
	in, hasIn := count(c.input)
	out, hasOut := count(c.output)
	all, hasAll := count(c.total)
	if !hasAll && hasIn && hasOut {
		all, hasAll = in+out, true
	}
	if !hasIn && !hasOut && !hasAll {
		return nil
	}
	read, hasRead := count(c.read)
	written, hasWritten := count(c.written...)
	usage := value{kind: aList}
	for i, n := range []struct {
		count int64
		there bool
	}{{in, hasIn}, {out, hasOut}, {all, hasAll}, {read, hasRead}, {written, hasWritten}} {
		if n.there {
			usage.pairs = append(usage.pairs, pair{[]byte(tokenKinds[i]), value{kind: anInt, num: uint64(n.count)}})
		}
	}
	return &usage
}

// facts collects what the trace takes from a span.
func (s *span) facts(root bool) *facts {
	var f facts
	set := false
	for i := range s.attributes {
		p := &s.attributes[i]
		switch string(p.key) {
		case "session.id":
			if t := p.value.plain(); t != "" {
				f.session, set = t, true
			}
		case "gen_ai.conversation.id":
			if f.session == "" {
				f.session, set = p.value.plain(), true
			}
		case "user.id":
			f.user, set = p.value.plain(), true
		case usageAttribute:
			if p.value.kind == aList {
				f.usage, set = append([]pair{}, p.value.pairs...), true
			}
		case costAttribute:
			if p.value.kind == aList {
				f.cost, set = append([]pair{}, p.value.pairs...), true
			}
		case inputsAttribute:
			if root {
				v := p.value
				f.inputs, set = &v, true
			}
		case outputsAttribute:
			if root {
				v := p.value
				f.outputs, set = &v, true
			}
		default:
			if root && strings.HasPrefix(string(p.key), tagAttribute) {
				f.tags, set = append(f.tags, *p), true
			}
		}
	}
	if !set {
		return &facts{}
	}
	return &f
}

// resourceTags are the tags that a trace gets of what sent it.
func resourceTags(about []pair) map[string]string {
	var tags map[string]string
	for i := range about {
		key := string(about[i].key)
		if strings.HasPrefix(key, "telemetry.sdk.") || strings.HasPrefix(key, "mlflow.") || checkKey(key) != nil {
			continue
		}
		if tags == nil {
			tags = map[string]string{}
		}
		tags[key] = cut(about[i].value.plain())
	}
	return tags
}

// preview is the start of what went into a trace or came out of it: of a chat,
// the last message of the role.
func preview(v *value, role string) string {
	text := ""
	if v.kind == aList {
		if m := messagesOf(v); len(m) > 0 {
			last := m[len(m)-1]
			for i := len(m) - 1; i >= 0; i-- {
				if r := member(m[i], "role"); r != nil && r.kind == aString && string(r.text) == role {
					last = m[i]
					break
				}
			}
			text = content(last)
		}
	}
	if text == "" {
		text = v.stored()
	}
	if r := []rune(text); len(text) > maxPreview && len(r) > maxPreview {
		text = string(r[:maxPreview-3]) + "..."
	}
	return text
}

// maxPreview bounds a preview, in characters.
const maxPreview = 1000

func member(v *value, key string) *value {
	if v.kind != aList {
		return nil
	}
	if i := find(v.pairs, key); i >= 0 {
		return &v.pairs[i].value
	}
	return nil
}

// messagesOf finds the messages of a chat in what went into a model or came out.
func messagesOf(v *value) []*value {
	isMessage := func(m *value) bool { return member(m, "role") != nil && member(m, "content") != nil }
	of := func(list *value) (found []*value) {
		for i := range list.items {
			if isMessage(&list.items[i]) {
				found = append(found, &list.items[i])
			}
		}
		return found
	}
	if m := member(v, "messages"); m != nil && m.kind == anArray && len(m.items) > 0 {
		return of(m)
	}
	if c := member(v, "choices"); c != nil && c.kind == anArray && len(c.items) > 0 {
		if m := member(&c.items[0], "message"); m != nil && isMessage(m) {
			return []*value{m}
		}
	}
	for _, key := range []string{"input", "output"} {
		if m := member(v, key); m != nil && m.kind == anArray && len(m.items) > 0 {
			return of(m)
		}
	}
	if m := member(v, "request"); m != nil && m.kind == aList {
		return messagesOf(m)
	}
	return nil
}

// content is the text of a message.
func content(m *value) string {
	c := member(m, "content")
	if c.kind == aString {
		return string(c.text)
	}
	for i := range c.items {
		part := &c.items[i]
		if part.kind == aString {
			return string(part.text)
		}
		if t := member(part, "type"); t != nil && (string(t.text) == "text" || string(t.text) == "output_text") {
			if text := member(part, "text"); text != nil {
				return string(text.text)
			}
			return ""
		}
	}
	return ""
}

// node is a span with what it says it used.
type node struct {
	id, parent string
	data       []pair // nil for nothing
}

// sum adds up what spans used. A span whose ancestor has counted is part of
// that count.
func sum(nodes []node, kinds []string, always int) []pair {
	byID := make(map[string]int, len(nodes))
	for i := range nodes {
		byID[nodes[i].id] = i
	}
	totals := make([]float64, len(kinds))
	there := make([]bool, len(kinds))
	any := false
	// counted tells of a span whether it or one above it counts: 1 no, 2 yes.
	counted := make([]byte, len(nodes))
	above := func(i int) bool {
		var way []int
		result := byte(1)
		for {
			if counted[i] != 0 {
				result = counted[i]
				break
			}
			if nodes[i].data != nil {
				result = 2
				break
			}
			counted[i] = 1 // a circle ends here
			way = append(way, i)
			up, ok := byID[nodes[i].parent]
			if !ok || nodes[i].parent == "" {
				break
			}
			i = up
		}
		for _, n := range way {
			counted[n] = result
		}
		return result == 2
	}
	for i := range nodes {
		if nodes[i].data == nil {
			continue
		}
		if up, ok := byID[nodes[i].parent]; ok && nodes[i].parent != "" && above(up) {
			continue
		}
		any = true
		for k, kind := range kinds {
			if x := find(nodes[i].data, kind); x >= 0 {
				n, ok := number(&nodes[i].data[x].value)
				if ok {
					totals[k] += n
					there[k] = true
				}
			}
		}
	}
	if !any {
		return nil
	}
	var found []pair
	for k, kind := range kinds {
		if there[k] || k < always {
			found = append(found, pair{[]byte(kind), value{kind: aDouble, num: math.Float64bits(totals[k])}})
		}
	}
	return found
}

func number(v *value) (float64, bool) {
	switch v.kind {
	case anInt:
		return float64(int64(v.num)), true
	case aDouble:
		f := math.Float64frombits(v.num)
		return f, !math.IsNaN(f) && !math.IsInf(f, 0)
	}
	return 0, false
}

// usageText writes counts of tokens as MLflow's metadata has them: those kinds
// that it knows, in its order; "" if there are none.
func usageText(pairs []pair) string {
	return known(pairs, tokenKinds, func(b []byte, n float64) ([]byte, bool) {
		if n != math.Trunc(n) || math.Abs(n) >= 1<<63 {
			return b, false
		}
		return strconv.AppendInt(b, int64(n), 10), true
	})
}

// costText is usageText for costs.
func costText(pairs []pair) string {
	return known(pairs, costKinds, func(b []byte, n float64) ([]byte, bool) { return appendFloat(b, n), true })
}

func known(pairs []pair, kinds []string, write func([]byte, float64) ([]byte, bool)) string {
	var b []byte
	for _, kind := range kinds {
		i := find(pairs, kind)
		if i < 0 {
			continue
		}
		v := &pairs[i].value
		n, ok := number(v)
		if !ok && v.kind == aString {
			f, err := strconv.ParseFloat(strings.TrimSpace(string(v.text)), 64)
			n, ok = f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
		}
		if !ok {
			continue
		}
		text, ok := write(nil, n)
		if !ok {
			continue
		}
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(append(append(append(b, '"'), kind...), `": `...), text...)
	}
	if len(b) == 0 {
		return ""
	}
	return "{" + string(b) + "}"
}
