package frame

import "testing"

func TestHeadersAreFoundByTheirName(t *testing.T) {
	b := AppendHeader(nil, "Content-Type", "text/csv")
	b = AppendHeader(b, "X-Text", "a\r\nContent-Length: 3")
	b = AppendHeader(b, "X-Text", "second")
	for name, want := range map[string]string{"Content-Type": "text/csv", "X-Text": "a  Content-Length: 3", "Content-Length": "", "Content": "", "Missing": ""} {
		if got := Header(b, name); got != want {
			t.Errorf("%s is %q and should be %q", name, got, want)
		}
	}
	if got := Header([]byte("Broken"), "Broken"); got != "" {
		t.Errorf("a line that is no header has no value: %q", got)
	}
}
