package pyenv

import (
	"strings"

	"lapis/fault"
	"lapis/ml/environment"
	"lapis/pattern"
)

// maxReason bounds the reason of a failed build, in bytes.
const maxReason = 700

// failure turns the last lines of a failed build into the fault that ends in
// the one a person needs.
func failure(lines []string) *fault.Error {
	why := reason(lines)
	all := strings.Join(lines, "\n")
	switch {
	case strings.Contains(all, "No space left on device"):
		return fault.New(fault.StorageFull, "StorageFull", "the environment could not be built, the disk is full: %s", why)
	case unreachable.MatchString(all):
		return fault.New(fault.Unavailable, "PackageIndexUnavailable",
			"the environment could not be built, the package index does not answer (check the network, and the proxy and index settings of the server's environment): %s", why)
	}
	return fault.New(fault.BadRequest, "EnvironmentBuildFailed", "the environment could not be built: %s", why)
}

// unreachable matches what uv and pip say when the index cannot be reached, as
// against an index that answers and does not have the package.
var unreachable = pattern.New(`(?i)client error \(connect\)|dns error|could not connect|connection refused|failed to establish a new connection|temporary failure in name resolution|tunnel error|operation timed out|timeout was reached|HTTPSConnectionPool|ProxyError|invalid peer certificate|CERTIFICATE_VERIFY_FAILED|50[234] (Bad Gateway|Service Unavailable|Gateway)`)

// exception matches the last line of a Python traceback.
var exception = pattern.New(`^\s*([A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b.*|error: .*|fatal error: .*)$`)

// reason picks what a person needs out of the last lines of a build.
func reason(lines []string) string {
	var errs, causes []string
	trace, inOutput := "", false
	for _, raw := range lines {
		if _, ok := environment.Stage(raw); ok {
			errs, causes, trace, inOutput = nil, nil, "", false
			continue
		}
		text := strings.TrimSpace(raw)
		body := strings.TrimSpace(strings.TrimLeft(text, "×├╰─▶│ "))
		switch {
		case text == "":
		case text == "[stderr]" || text == "[stdout]":
			inOutput = true
		case inOutput && raw != text:
			if exception.MatchString(text) {
				trace = text
			}
		case strings.HasPrefix(text, "hint:"):
			inOutput = false
			causes = append(causes, "") // ends the text of the cause before
		case strings.HasPrefix(text, "error:"), strings.HasPrefix(text, "×"), strings.HasPrefix(text, "ERROR:"):
			inOutput = false
			body = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(body, "error:"), "ERROR:"))
			if strings.HasPrefix(body, "ResolutionImpossible") || (strings.HasPrefix(body, "Could not find a version") && len(body) > maxReason) {
				continue
			}
			errs, causes = append(errs, body), nil
		case len(errs) > 0 && (strings.HasPrefix(text, "cause:") || strings.ContainsAny(text[:min(3, len(text))], "├╰")):
			inOutput = false
			causes = append(causes, strings.TrimSpace(strings.TrimPrefix(body, "cause:")))
		case len(errs) > 0 && len(causes) > 0 && causes[len(causes)-1] != "" && raw != text:
			causes[len(causes)-1] += " " + body
		case len(errs) > 0 && len(causes) == 0 && raw != text:
			errs[len(errs)-1] += " " + body
		}
	}
	var said []string
	for _, c := range causes {
		if c != "" {
			said = append(said, c)
		}
	}
	var why string
	switch {
	case len(errs) == 0:
		why = lastLine(lines)
	case strings.Contains(errs[len(errs)-1], "No solution found") && len(said) > 0:
		why = said[0]
	case trace != "":
		why = errs[len(errs)-1] + ": " + trace
	case len(said) > 1:
		why = said[0] + ": " + said[len(said)-1]
	case len(said) == 1:
		why = errs[len(errs)-1] + ": " + said[0]
	default:
		why = errs[len(errs)-1]
	}
	return shorten(why)
}

// shorten keeps the end of a long reason: uv and pip conclude there.
func shorten(s string) string {
	if len(s) <= maxReason {
		return s
	}
	s = s[len(s)-maxReason:]
	if i := strings.Index(s, ". And "); i >= 0 {
		return "… " + s[i+2:]
	}
	if _, rest, ok := strings.Cut(s, " "); ok {
		s = rest
	}
	return "… " + s
}

func lastLine(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if text := strings.TrimSpace(lines[i]); text != "" {
			return text
		}
	}
	return "it ended without a word"
}
