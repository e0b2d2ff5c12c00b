package template

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

func concat(e scope, c call, args []any) (any, error) {
	if _, lists := args[0].([]any); lists {
		joined := []any{}
		for _, a := range args {
			list, err := listOf(e, c, a)
			if err != nil {
				return nil, err
			}
			joined = append(joined, list...)
		}
		return joined, nil
	}
	var b strings.Builder
	for _, a := range args {
		switch a.(type) {
		case string, int64, json.Number, bool:
			b.WriteString(plain(a))
		default:
			return nil, wants(e, c, a, "a string")
		}
	}
	return b.String(), nil
}

func length(e scope, c call, args []any) (any, error) {
	switch v := args[0].(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), nil
	case []any:
		return int64(len(v)), nil
	case map[string]any:
		return int64(len(v)), nil
	}
	return nil, wants(e, c, args[0], "a string, an array or an object")
}

func empty(e scope, c call, args []any) (any, error) {
	if args[0] == nil {
		return true, nil
	}
	n, err := length(e, c, args)
	return n == int64(0), err
}

func contains(e scope, c call, args []any) (any, error) {
	switch v := args[0].(type) {
	case string:
		return strings.Contains(v, plain(args[1])), nil
	case []any:
		return slices.ContainsFunc(v, func(one any) bool { return Alike(one, args[1]) }), nil
	case map[string]any:
		_, ok := memberOf(v, args[1])
		return ok, nil
	}
	return nil, wants(e, c, args[0], "a string, an array or an object")
}

func end(e scope, c call, v any, first bool) (any, error) {
	switch v := v.(type) {
	case string:
		runes := []rune(v)
		switch {
		case len(runes) == 0:
			return "", nil
		case first:
			return string(runes[:1]), nil
		}
		return string(runes[len(runes)-1:]), nil
	case []any:
		switch {
		case len(v) == 0:
			return nil, nil
		case first:
			return v[0], nil
		}
		return v[len(v)-1], nil
	}
	return nil, wants(e, c, v, "a string or an array")
}

func part(e scope, c call, args []any, take bool) (any, error) {
	n, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	cut := func(size int) (from, to int) {
		at := int(min(max(n, 0), int64(size)))
		if take {
			return 0, at
		}
		return at, size
	}
	switch v := args[0].(type) {
	case string:
		runes := []rune(v)
		from, to := cut(len(runes))
		return string(runes[from:to]), nil
	case []any:
		from, to := cut(len(v))
		return slices.Clone(v[from:to]), nil
	}
	return nil, wants(e, c, args[0], "a string or an array")
}

func place(e scope, c call, args []any, last bool) (any, error) {
	if list, ok := args[0].([]any); ok {
		found := int64(-1)
		for i, v := range list {
			if Alike(v, args[1]) {
				if found = int64(i); !last {
					break
				}
			}
		}
		return found, nil
	}
	s, part, err := twoTexts(e, c, args)
	if err != nil {
		return nil, err
	}
	s, part = strings.ToLower(s), strings.ToLower(part)
	at := strings.Index(s, part)
	if last {
		at = strings.LastIndex(s, part)
	}
	if at < 0 {
		return int64(-1), nil
	}
	return int64(utf8.RuneCountInString(s[:at])), nil
}

func toArray(_ scope, _ call, args []any) (any, error) {
	if list, ok := args[0].([]any); ok {
		return list, nil
	}
	return []any{args[0]}, nil
}

func createObject(e scope, c call, args []any) (any, error) {
	if len(args)%2 != 0 {
		return nil, e.wrong(c, "it takes keys and values in turn")
	}
	made := map[string]any{}
	for i := 0; i < len(args); i += 2 {
		key, err := textOf(e, c, args[i])
		if err != nil {
			return nil, err
		}
		made[key] = args[i+1]
	}
	return made, nil
}

func numbers(e scope, c call, args []any) (any, error) {
	from, err := intOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	n, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	if n < 0 || n > 10_000 || from > math.MaxInt32 || from < math.MinInt32 {
		return nil, e.wrong(c, "it makes 0 to 10000 numbers, not %d from %d on", n, from)
	}
	list := make([]any, n)
	for i := range list {
		list[i] = from + int64(i)
	}
	return list, nil
}

func flatten(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made := []any{}
	for _, v := range list {
		inner, err := listOf(e, c, v)
		if err != nil {
			return nil, err
		}
		made = append(made, inner...)
	}
	return made, nil
}

func union(e scope, c call, args []any) (any, error) {
	if _, lists := args[0].([]any); lists {
		made := []any{}
		seen := map[string]bool{}
		for _, a := range args {
			list, err := listOf(e, c, a)
			if err != nil {
				return nil, err
			}
			for _, v := range list {
				if key := string(Encode(v)); !seen[key] {
					seen[key] = true
					made = append(made, v)
				}
			}
		}
		return made, nil
	}
	made := map[string]any{}
	for _, a := range args {
		m, err := objectOf(e, c, a)
		if err != nil {
			return nil, err
		}
		made = merged(made, m)
	}
	return made, nil
}

// merged is one object over another, and so what lies in them.
func merged(under, over map[string]any) map[string]any {
	made := maps.Clone(under)
	for k, v := range over {
		for given := range under {
			if given != k && strings.EqualFold(given, k) {
				k = given
			}
		}
		a, ok1 := made[k].(map[string]any)
		b, ok2 := v.(map[string]any)
		if ok1 && ok2 {
			v = merged(a, b)
		}
		made[k] = v
	}
	return made
}

func intersection(e scope, c call, args []any) (any, error) {
	if list, lists := args[0].([]any); lists {
		made := []any{}
		for _, v := range list {
			all := true
			for _, a := range args[1:] {
				other, err := listOf(e, c, a)
				if err != nil {
					return nil, err
				}
				all = all && slices.ContainsFunc(other, func(o any) bool { return Alike(o, v) })
			}
			if all && !slices.ContainsFunc(made, func(o any) bool { return Alike(o, v) }) {
				made = append(made, v)
			}
		}
		return made, nil
	}
	first, err := objectOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made := maps.Clone(first)
	for _, a := range args[1:] {
		other, err := objectOf(e, c, a)
		if err != nil {
			return nil, err
		}
		maps.DeleteFunc(made, func(k string, v any) bool { o, ok := other[k]; return !ok || !Alike(o, v) })
	}
	return made, nil
}

func shallowMerge(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made := map[string]any{}
	for _, v := range list {
		m, err := objectOf(e, c, v)
		if err != nil {
			return nil, err
		}
		maps.Copy(made, m)
	}
	return made, nil
}

func items(e scope, c call, args []any) (any, error) {
	m, err := objectOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	list := []any{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, map[string]any{"key": k, "value": m[k]})
	}
	return list, nil
}

func objectKeys(e scope, c call, args []any) (any, error) {
	m, err := objectOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	return texts(slices.Sorted(maps.Keys(m))), nil
}

func tryGet(_ scope, _ call, args []any) (any, error) {
	v := args[0]
	for _, key := range args[1:] {
		var ok bool
		if v, ok = memberOf(v, key); !ok {
			return nil, nil
		}
	}
	return v, nil
}

func indexFromEnd(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	n, err := intOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	if n < 1 || n > int64(len(list)) {
		if strings.HasPrefix(strings.ToLower(c.name), "try") {
			return nil, nil
		}
		return nil, e.wrong(c, "there is no element %d from the end", n)
	}
	return list[int64(len(list))-n], nil
}

func filter(e scope, c call, args []any) (any, error) {
	list, l, err := listAndLambda(e, c, args[0], args[1], 1, 2)
	if err != nil {
		return nil, err
	}
	made := []any{}
	for i, v := range list {
		keep, err := l.do(v, int64(i))
		if err != nil {
			return nil, err
		}
		is, ok := keep.(bool)
		if !ok {
			return nil, wants(e, c, keep, "true or false")
		}
		if is {
			made = append(made, v)
		}
	}
	return made, nil
}

func mapped(e scope, c call, args []any) (any, error) {
	list, l, err := listAndLambda(e, c, args[0], args[1], 1, 2)
	if err != nil {
		return nil, err
	}
	made := make([]any, len(list))
	for i, v := range list {
		if made[i], err = l.do(v, int64(i)); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func mapValues(e scope, c call, args []any) (any, error) {
	m, err := objectOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	l, err := lambdaOf(e, c, args[1], 1, 1)
	if err != nil {
		return nil, err
	}
	made := map[string]any{}
	for k, v := range m {
		if made[k], err = l.do(v); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func reduce(e scope, c call, args []any) (any, error) {
	list, l, err := listAndLambda(e, c, args[0], args[2], 2, 3)
	if err != nil {
		return nil, err
	}
	made := args[1]
	for i, v := range list {
		if made, err = l.do(made, v, int64(i)); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func sorted(e scope, c call, args []any) (any, error) {
	list, l, err := listAndLambda(e, c, args[0], args[1], 2, 2)
	if err != nil {
		return nil, err
	}
	made := slices.Clone(list)
	slices.SortStableFunc(made, func(a, b any) int {
		for _, try := range []struct {
			a, b any
			n    int
		}{{a, b, -1}, {b, a, 1}} {
			v, bad := l.do(try.a, try.b)
			if bad != nil && err == nil {
				err = bad
			}
			if v == true {
				return try.n
			}
		}
		return 0
	})
	return made, err
}

func groupBy(e scope, c call, args []any) (any, error) {
	list, l, err := listAndLambda(e, c, args[0], args[1], 1, 1)
	if err != nil {
		return nil, err
	}
	made := map[string]any{}
	for _, v := range list {
		key, err := l.do(v)
		if err != nil {
			return nil, err
		}
		name, err := textOf(e, c, key)
		if err != nil {
			return nil, err
		}
		group, _ := made[name].([]any)
		made[name] = append(group, v)
	}
	return made, nil
}

func toObject(e scope, c call, args []any) (any, error) {
	list, err := listOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	made := map[string]any{}
	for _, v := range list {
		l, err := lambdaOf(e, c, args[1], 1, 1)
		if err != nil {
			return nil, err
		}
		key, err := l.do(v)
		if err != nil {
			return nil, err
		}
		name, err := textOf(e, c, key)
		if err != nil {
			return nil, err
		}
		if len(args) > 2 {
			if l, err = lambdaOf(e, c, args[2], 1, 1); err != nil {
				return nil, err
			}
			if v, err = l.do(v); err != nil {
				return nil, err
			}
		}
		made[name] = v
	}
	return made, nil
}
