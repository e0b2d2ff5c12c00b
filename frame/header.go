package frame

import "strings"

// Header returns the first value of the header of that name, which is in its
// canonical form, or "".
func Header(headers []byte, name string) string {
	for len(headers) > 0 {
		line := headers
		if at := indexCRLF(headers); at >= 0 {
			line, headers = headers[:at], headers[at+2:]
		} else {
			headers = nil
		}
		if len(line) > len(name) && line[len(name)] == ':' && string(line[:len(name)]) == name {
			return strings.TrimSpace(string(line[len(name)+1:]))
		}
	}
	return ""
}

func indexCRLF(b []byte) int {
	for i := 0; i+1 < len(b); i++ {
		if b[i] == '\r' && b[i+1] == '\n' {
			return i
		}
	}
	return -1
}

// AppendHeader appends the line of a header. A line break in the value becomes
// a space, so that no value makes a second header.
func AppendHeader(headers []byte, name, value string) []byte {
	headers = append(headers, name...)
	headers = append(headers, ':', ' ')
	for i := range len(value) {
		c := value[i]
		if c == '\r' || c == '\n' {
			c = ' '
		}
		headers = append(headers, c)
	}
	return append(headers, '\r', '\n')
}
