package process

import (
	"os/exec"
	"testing"

	"lapis/fault"
)

func TestPlaceholdersBecomePathsThatTheShellReadsAsOneWord(t *testing.T) {
	paths := map[string]string{
		"inputs.plain": "/data/in/iris.csv",
		"inputs.odd":   "/data/it's \"$HOME\" `id` \\ and so on",
		"outputs.o":    "/data/out",
	}
	odd := paths["inputs.odd"]
	for _, c := range []struct{ name, command, prints string }{
		{"a plain path as it is", `echo ${{inputs.plain}}`, "/data/in/iris.csv"},
		{"blanks inside the braces", `echo ${{ inputs.plain }} ${{	outputs.o}}`, "/data/in/iris.csv /data/out"},
		{"joined with other text", `echo --in=${{inputs.plain}}/x`, "--in=/data/in/iris.csv/x"},
		{"an odd path, bare", `printf %s ${{inputs.odd}}`, odd},
		{"an odd path with text on both sides", `printf %s --in=${{inputs.odd}}/x`, "--in=" + odd + "/x"},
		{"an odd path in double quotes", `printf %s "a ${{inputs.odd}} b"`, "a " + odd + " b"},
		{"an odd path in single quotes", `printf %s 'a ${{inputs.odd}} b'`, "a " + odd + " b"},
		{"an odd path after closed quotes", `printf %s 'a'"b"${{inputs.odd}}`, "ab" + odd},
		{"an odd path after escaped quotes", `printf %s \"\'${{inputs.odd}}"\""${{inputs.odd}}`, `"'` + odd + `"` + odd},
		{"several lines", "printf %s ${{inputs.odd}}\nprintf %s \"${{inputs.odd}}\"", odd + odd},
		{"what is no placeholder", `echo '${{search_space.x}} $[[ ]] ${{}}'`, "${{search_space.x}} $[[ ]] ${{}}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command, err := expand(c.command, paths, true)
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("bash", "-c", command).Output()
			if err != nil {
				t.Fatalf("%s: %v", command, err)
			}
			if got := string(out); got != c.prints && got != c.prints+"\n" {
				t.Errorf("%s prints %q, want %q", command, got, c.prints)
			}
		})
	}
	if _, err := expand("cat ${{inputs.none}}", paths, true); !fault.Is(err, fault.BadRequest) {
		t.Errorf("an unknown input: %v", err)
	}
}
