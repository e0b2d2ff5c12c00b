package tracking

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
)

// offsetToken is a page token: how many things came before.
type offsetToken struct {
	Offset int    `json:"offset"`
	After  string `json:"after,omitempty"` // id of the last thing shown
	Last   *mark  `json:"last,omitempty"`  // the last run shown
}

func (t offsetToken) String() string {
	b, _ := json.Marshal(t)
	return base64.StdEncoding.EncodeToString(b)
}

func parseToken(s string) (t offsetToken, err error) {
	if s == "" {
		return t, nil
	}
	// What is no digit of base64 does not count, as in Python.
	b, err := base64.StdEncoding.DecodeString(strings.Map(func(r rune) rune {
		if r < 128 && (r == '+' || r == '/' || r == '=' || wordRune(r) && r != '_') {
			return r
		}
		return -1
	}, s))
	if err != nil {
		return t, invalid("Invalid page token, could not base64-decode")
	}
	var said struct {
		Offset any    `json:"offset"`
		After  string `json:"after"`
		Last   *mark  `json:"last"`
	}
	if err := json.Unmarshal(b, &said); err != nil {
		return t, invalid("Invalid page token, decoded value=b'%s'", b)
	}
	offset, ok := said.Offset.(float64)
	if !ok || offset < 1 || offset > 1<<53 {
		return t, invalid("Invalid page token, not stringable %v", said.Offset)
	}
	return offsetToken{Offset: int(offset), After: said.After, Last: said.Last}, nil
}

// Page cuts one page out of a sorted list; token is the next of the page before.
func Page[T any](list []T, token string, limit int, id func(T) string) (page []T, next string, err error) {
	t, err := parseToken(token)
	if err != nil {
		return nil, "", err
	}
	page, next = paged(list, t, limit, id)
	return page, next, nil
}

// paged cuts the page after t out of a sorted list.
func paged[T any](list []T, t offsetToken, limit int, id func(T) string) (page []T, next string) {
	start := min(t.Offset, len(list))
	if t.After != "" {
		// Things may have come and gone since: go on after the last one shown.
		if i := slices.IndexFunc(list, func(x T) bool { return id(x) == t.After }); i >= 0 {
			start = i + 1
		}
	}
	page = list[start:]
	if limit > 0 && len(page) > limit {
		page = page[:limit]
		next = offsetToken{Offset: start + limit, After: id(page[limit-1])}.String()
	}
	return page, next
}
