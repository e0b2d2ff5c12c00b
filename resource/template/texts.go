package template

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"lapis/fault"
)

func base64ToString(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || !utf8.Valid(b) {
		return nil, e.wrong(c, "'%s' is not a text in base64", fault.Clip(s))
	}
	return string(b), nil
}

func base64ToJSON(e scope, c call, args []any) (any, error) {
	s, err := base64ToString(e, c, args)
	if err != nil {
		return nil, err
	}
	return parseJSON(e, c, []any{s})
}

func parseJSON(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	if !json.Valid([]byte(s)) {
		return nil, e.wrong(c, "'%s' is not valid JSON", fault.Clip(s))
	}
	return decode(json.RawMessage(s))
}

func dataURIToString(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	head, data, ok := strings.Cut(s, ",")
	if !ok || !strings.HasPrefix(head, "data:") {
		return nil, e.wrong(c, "'%s' is no data URI", fault.Clip(s))
	}
	if strings.HasSuffix(head, ";base64") {
		return base64ToString(e, c, []any{data})
	}
	return uriComponentToString(e, c, []any{data})
}

func uriComponentToString(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made, err := url.PathUnescape(s)
	if err != nil || !utf8.ValidString(made) {
		return nil, e.wrong(c, "'%s' is not encoded as the part of a URI", fault.Clip(s))
	}
	return made, nil
}

func joinURI(e scope, c call, args []any) (any, error) {
	base, relative, err := twoTexts(e, c, args)
	if err != nil {
		return nil, err
	}
	b, err := url.Parse(base)
	if err != nil || !b.IsAbs() {
		return nil, e.wrong(c, "'%s' is no absolute URI", fault.Clip(base))
	}
	if strings.HasSuffix(base, "/") {
		return base + strings.TrimPrefix(relative, "/"), nil
	}
	r, err := url.Parse(relative)
	if err != nil {
		return nil, e.wrong(c, "'%s' is no relative URI", fault.Clip(relative))
	}
	return b.ResolveReference(r).String(), nil
}

// format is .NET's composite formatting: {0}, {1,8}, {2:D3}.
func format(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if b.Len() > maxMade {
			return nil, e.wrong(c, "it makes a value of more than %d bytes", maxMade)
		}
		switch {
		case s[i] == '{' && strings.HasPrefix(s[i+1:], "{"), s[i] == '}' && strings.HasPrefix(s[i+1:], "}"):
			b.WriteByte(s[i])
			i++
		case s[i] == '{':
			inside, _, closed := strings.Cut(s[i+1:], "}")
			item, spec, _ := strings.Cut(inside, ":")
			item, wide, _ := strings.Cut(item, ",")
			n, err := strconv.Atoi(strings.TrimSpace(item))
			if err != nil || !closed || n < 0 || n+1 >= len(args) {
				return nil, e.wrong(c, "'{%s}' names none of its %d arguments", fault.Clip(inside), len(args)-1)
			}
			text, ok := formatted(args[n+1], spec)
			if !ok {
				return nil, e.wrong(c, "'{%s}' cannot be applied to %s", fault.Clip(inside), fault.Clip(plain(args[n+1])))
			}
			if wide != "" {
				w, err := strconv.Atoi(strings.TrimSpace(wide))
				if err != nil || w > 1000 || w < -1000 {
					return nil, e.wrong(c, "'{%s}' has no width that is offered", fault.Clip(inside))
				}
				text = fmt.Sprintf("%*s", w, text)
			}
			b.WriteString(text)
			i += len(inside) + 1
		case s[i] == '}':
			return nil, e.wrong(c, "'%s' has a '}' without its '{'", fault.Clip(s))
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}

// formatted is a value in one of .NET's formats.
func formatted(v any, spec string) (string, bool) {
	n, ok := v.(int64)
	if spec == "" || !ok {
		return plain(v), true
	}
	digits := -1
	if len(spec) > 1 {
		var err error
		if digits, err = strconv.Atoi(spec[1:]); err != nil || digits > 100 || digits < 0 {
			digits = -2
		}
	}
	switch kind := spec[0]; {
	case strings.Trim(spec, "0") == "" && len(spec) < 100:
		return fmt.Sprintf("%0*d", len(spec), n), true
	case digits == -2:
		return "", false
	case kind == 'D' || kind == 'd' || kind == 'G' || kind == 'g':
		sign, size := "", strconv.FormatInt(n, 10)
		if n < 0 {
			sign, size = "-", size[1:]
		}
		if kind == 'D' || kind == 'd' {
			size = strings.Repeat("0", max(0, digits-len(size))) + size
		}
		return sign + size, true
	case kind == 'X':
		return fmt.Sprintf("%0*X", max(digits, 0), uint64(n)), true
	case kind == 'x':
		return fmt.Sprintf("%0*x", max(digits, 0), uint64(n)), true
	case kind == 'N' || kind == 'n' || kind == 'F' || kind == 'f':
		if digits < 0 {
			digits = 2
		}
		text := strconv.FormatInt(n, 10)
		if kind == 'N' || kind == 'n' {
			first := 0
			if n < 0 {
				first = 1
			}
			for i := len(text) - 3; i > first; i -= 3 {
				text = text[:i] + "," + text[i:]
			}
		}
		if digits > 0 {
			text += "." + strings.Repeat("0", digits)
		}
		return text, true
	}
	return "", false
}

func replace(e scope, c call, args []any) (any, error) {
	var s [3]string
	for i := range s {
		var err error
		if s[i], err = textOf(e, c, args[i]); err != nil {
			return nil, err
		}
	}
	if s[1] == "" {
		return nil, e.wrong(c, "what is to be replaced is empty")
	}
	if len(s[0])+strings.Count(s[0], s[1])*len(s[2]) > 2*maxMade {
		return nil, e.wrong(c, "it makes a value of more than %d bytes", maxMade)
	}
	return strings.ReplaceAll(s[0], s[1], s[2]), nil
}

func split(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	marks, ok := args[1].([]any)
	if !ok {
		marks = []any{args[1]}
	}
	parts := []string{s}
	for _, m := range marks {
		mark, err := textOf(e, c, m)
		if err != nil {
			return nil, err
		}
		if mark == "" {
			continue
		}
		var finer []string
		for _, p := range parts {
			finer = append(finer, strings.Split(p, mark)...)
		}
		parts = finer
	}
	return texts(parts), nil
}

func texts(all []string) []any {
	list := make([]any, len(all))
	for i, s := range all {
		list[i] = s
	}
	return list
}

func join(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	mark, err := textOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, v := range list {
		if i > 0 {
			b.WriteString(mark)
		}
		b.WriteString(plain(v))
		if b.Len() > maxMade {
			return nil, e.wrong(c, "it makes a value of more than %d bytes", maxMade)
		}
	}
	return b.String(), nil
}

func substring(e scope, c call, args []any) (any, error) {
	s, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	runes := []rune(s)
	from, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	n := int64(len(runes)) - from
	if len(args) > 2 && args[2] != nil {
		if n, err = intOf(e, c, args[2]); err != nil {
			return nil, err
		}
	}
	if from < 0 || n < 0 || from > int64(len(runes)) || n > int64(len(runes))-from {
		return nil, e.wrong(c, "%d characters from %d on do not lie in '%s'", n, from, fault.Clip(s))
	}
	return string(runes[from : from+n]), nil
}

func atEdge(e scope, c call, args []any, holds func(s, part string) bool) (any, error) {
	s, part, err := twoTexts(e, c, args)
	if err != nil {
		return nil, err
	}
	return holds(strings.ToLower(s), strings.ToLower(part)), nil
}

func padLeft(e scope, c call, args []any) (any, error) {
	s := plain(args[0])
	total, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	with := " "
	if len(args) > 2 {
		if with, err = textOf(e, c, args[2]); err != nil {
			return nil, err
		}
	}
	if utf8.RuneCountInString(with) != 1 || total < 0 || total > maxMade/4 {
		return nil, e.wrong(c, "it takes a length and one character")
	}
	return strings.Repeat(with, max(0, int(total)-utf8.RuneCountInString(s))) + s, nil
}

// dashed joins texts as hashes of several want them.
func dashed(e scope, c call, args []any) (string, error) {
	all := make([]string, len(args))
	for i, a := range args {
		var err error
		if all[i], err = textOf(e, c, a); err != nil {
			return "", err
		}
	}
	return strings.Join(all, "-"), nil
}

// uniqueString is Azure's: the same names as there.
func uniqueString(e scope, c call, args []any) (any, error) {
	s, err := dashed(e, c, args)
	if err != nil {
		return nil, err
	}
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	h := murmur64([]byte(s))
	made := make([]byte, 13)
	for i := range made {
		made[i] = alphabet[h>>59]
		h <<= 5
	}
	return string(made), nil
}

// murmur64 is MurmurHash3 for 32 bits on two lanes.
func murmur64(data []byte) uint64 {
	const c1, c2 = 0x239b961b, 0xab0e9789
	lane := func(b []byte) uint32 {
		var k uint32
		for i, x := range b[:min(4, len(b))] {
			k |= uint32(x) << (8 * i)
		}
		return k
	}
	first := func(k uint32) uint32 { return bits.RotateLeft32(k*c1, 15) * c2 }
	second := func(k uint32) uint32 { return bits.RotateLeft32(k*c2, 17) * c1 }
	var h1, h2 uint32
	at := 0
	for ; at+7 < len(data); at += 8 {
		h1 = (bits.RotateLeft32(h1^first(lane(data[at:])), 19)+h2)*5 + 0x561ccd1b
		h2 = (bits.RotateLeft32(h2^second(lane(data[at+4:])), 13)+h1)*5 + 0x0bcaa747
	}
	if rest := data[at:]; len(rest) > 0 {
		h1 ^= first(lane(rest))
		if len(rest) > 4 {
			h2 ^= second(lane(rest[4:]))
		}
	}
	n := uint32(len(data))
	h1, h2 = h1^n, h2^n
	h1 += h2
	h2 += h1
	mix := func(h uint32) uint32 {
		h = (h ^ h>>16) * 0x85ebca6b
		h = (h ^ h>>13) * 0xc2b2ae35
		return h ^ h>>16
	}
	h1, h2 = mix(h1), mix(h2)
	h1 += h2
	h2 += h1
	return uint64(h2)<<32 | uint64(h1)
}

// guid is Azure's: version 5 of a namespace of its own.
func guid(e scope, c call, args []any) (any, error) {
	s, err := dashed(e, c, args)
	if err != nil {
		return nil, err
	}
	space, _ := hex.DecodeString("11fb06fb712d4ddd98c7e71bbd588830")
	h := sha1.Sum(append(space, s...))
	h[6], h[8] = h[6]&0x0f|0x50, h[8]&0x3f|0x80
	x := hex.EncodeToString(h[:16])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:], nil
}
