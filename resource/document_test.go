package resource

import (
	"encoding/json"
	"testing"

	"lapis/fault"
)

func TestMergePatch(t *testing.T) {
	// The cases of RFC 7396, and numbers that must stay as they are written.
	for _, c := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{``, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
		{`{"n":1.50}`, `{"m":12345678901234567890}`, `{"m":12345678901234567890,"n":1.50}`},
	} {
		got, err := MergePatch(json.RawMessage(c.target), json.RawMessage(c.patch))
		if err != nil || string(got) != c.want {
			t.Errorf("%s patched with %s: %s, %v; want %s", c.target, c.patch, got, err, c.want)
		}
	}
	if _, err := MergePatch(json.RawMessage(`{}`), json.RawMessage(`{`)); !fault.Is(err, fault.BadRequest) {
		t.Errorf("a broken patch: %v", err)
	}
}

func TestNullsAreDroppedFromObjectsAndKeptInLists(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":null}`:                       `{}`,
		`{"a":{"b":null,"c":1.0}}`:         `{"a":{"c":1.0}}`,
		`{"a":[null,{"b":null}]}`:          `{"a":[null,{}]}`,
		`{"a":"null"}`:                     `{"a":"null"}`,
		`{"z":1,"a":[1e400,"<&>"],"n":{}}`: `{"z":1,"a":[1e400,"<&>"],"n":{}}`, // untouched where there is none
	} {
		if got, err := DropNulls(json.RawMessage(in)); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
}

func TestDocuments(t *testing.T) {
	d, err := ParseDocument(json.RawMessage(`{"b":1.50,"a":"x","gone":null,"o":{"k":"v"}}`))
	if err != nil {
		t.Fatal(err)
	}
	d.Default("a", "y")
	d.Default("new", true)
	d.Set("b", []int{1})
	if got := string(d.Raw()); got != `{"a":"x","b":[1],"new":true,"o":{"k":"v"}}` {
		t.Error(got)
	}
	if d.Text("a") != "x" || d.Text("b") != "" || d.Text("none") != "" || d.Object("o").Text("k") != "v" || len(d.Object("a")) != 0 {
		t.Error("members are read wrong")
	}
	for _, empty := range []string{"", "null", " null ", "{}"} {
		if d, err := ParseDocument(json.RawMessage(empty)); err != nil || d == nil || len(d) != 0 {
			t.Errorf("%q: %v, %v", empty, d, err)
		}
	}
	for _, bad := range []string{"[]", `"x"`, "1", "{"} {
		if _, err := ParseDocument(json.RawMessage(bad)); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if got := Overlay(json.RawMessage(`{"a":1,"b":2}`), json.RawMessage(`{"b":3,"c":null}`)); string(got) != `{"a":1,"b":3}` {
		t.Errorf("%s", got)
	}
}

func TestEtagsMatchListsOfThem(t *testing.T) {
	for list, want := range map[string]bool{
		`*`: true, `"a"`: true, `a`: true, `W/"a"`: true, `"b", "a"`: true, `"b",W/"a"`: true,
		`"b"`: false, ``: false, `"A"`: false, `"a b"`: false, `"ab"`: false,
	} {
		if got := MatchesEtag(list, "a"); got != want {
			t.Errorf("%s: %v", list, got)
		}
	}
}

func FuzzMergePatch(f *testing.F) {
	f.Add(`{"a":{"b":1}}`, `{"a":{"b":null}}`)
	f.Fuzz(func(t *testing.T, target, patch string) {
		if !json.Valid([]byte(target)) {
			return
		}
		once, err := MergePatch(json.RawMessage(target), json.RawMessage(patch))
		if err != nil {
			return
		}
		twice, err := MergePatch(once, json.RawMessage(patch))
		if err != nil || !EqualJSON(once, twice) {
			t.Fatalf("%s patched with %s: %s, and once more: %s, %v", target, patch, once, twice, err)
		}
	})
}
