package template

import (
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/pattern"
)

// layouts are the parts of .NET's formats of times, longest first.
var layouts = []struct{ net, layout string }{
	{"yyyy", "2006"}, {"yy", "06"}, {"MMMM", "January"}, {"MMM", "Jan"}, {"MM", "01"}, {"M", "1"},
	{"dddd", "Monday"}, {"ddd", "Mon"}, {"dd", "02"}, {"d", "2"}, {"HH", "15"}, {"hh", "03"}, {"h", "3"},
	{"mm", "04"}, {"m", "4"}, {"ss", "05"}, {"s", "5"}, {"tt", "PM"}, {"zzz", "-07:00"},
}

// standards are .NET's formats of one letter.
var standards = map[string]string{
	"u": "2006-01-02 15:04:05Z", "s": "2006-01-02T15:04:05", "o": "2006-01-02T15:04:05.0000000Z", "O": "2006-01-02T15:04:05.0000000Z",
	"d": "01/02/2006", "D": "Monday, 02 January 2006", "t": "15:04", "T": "15:04:05", "R": "Mon, 02 Jan 2006 15:04:05 GMT", "r": "Mon, 02 Jan 2006 15:04:05 GMT",
	"g": "01/02/2006 15:04", "G": "01/02/2006 15:04:05", "y": "2006 January", "Y": "2006 January", "m": "January 02", "M": "January 02",
}

// stamp writes a time in a format of .NET.
func stamp(e scope, c call, at time.Time, format string) (any, error) {
	if layout, ok := standards[format]; ok {
		return at.Format(layout), nil
	}
	if len(format) < 2 {
		return nil, e.wrong(c, "'%s' is no format of times", fault.Clip(format))
	}
	var b strings.Builder
	for rest := format; rest != ""; {
		var took int
		switch {
		case rest[0] == '\'':
			inside, _, closed := strings.Cut(rest[1:], "'")
			if !closed {
				return nil, e.wrong(c, "'%s' is no format of times", fault.Clip(format))
			}
			b.WriteString(inside)
			took = len(inside) + 2
		case rest[0] == '\\' && len(rest) > 1:
			b.WriteByte(rest[1])
			took = 2
		case rest[0] == 'f' || rest[0] == 'F':
			for took < len(rest) && took < 7 && rest[took] == rest[0] {
				took++
			}
			b.WriteString(at.Format(".0000000")[1 : 1+took])
		case strings.HasPrefix(rest, "H") && !strings.HasPrefix(rest, "HH"):
			b.WriteString(strconv.Itoa(at.Hour()))
			took = 1
		default:
			for _, l := range layouts {
				if strings.HasPrefix(rest, l.net) {
					b.WriteString(at.Format(l.layout))
					took = len(l.net)
					break
				}
			}
			if took == 0 {
				b.WriteByte(rest[0])
				took = 1
			}
		}
		rest = rest[took:]
	}
	return b.String(), nil
}

// timeOf reads a time as ISO 8601 writes it, and as utcNow does.
func timeOf(e scope, c call, v any) (time.Time, error) {
	s, err := textOf(e, c, v)
	if err != nil {
		return time.Time{}, err
	}
	for _, layout := range []string{time.RFC3339Nano, "20060102T150405Z", "2006-01-02 15:04:05Z", "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if at, err := time.Parse(layout, s); err == nil {
			return at.UTC(), nil
		}
	}
	return time.Time{}, e.wrong(c, "'%s' is no time in ISO 8601's form", fault.Clip(s))
}

var span = pattern.New(`^(-?)P(?:(\d{1,4})Y)?(?:(\d{1,5})M)?(?:(\d{1,5})W)?(?:(\d{1,6})D)?(?:T(?:(\d{1,7})H)?(?:(\d{1,8})M)?(?:(\d{1,9})S)?)?$`)

func dateTimeAdd(e scope, c call, args []any) (any, error) {
	at, err := timeOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	text, err := textOf(e, c, args[1])
	if err != nil {
		return nil, err
	}
	found := span.FindStringSubmatch(text)
	if found == nil || strings.HasSuffix(text, "P") || strings.HasSuffix(text, "T") {
		return nil, e.wrong(c, "'%s' is no duration in ISO 8601's form", fault.Clip(text))
	}
	var n [9]int
	for i := 2; i < len(found); i++ {
		n[i], _ = strconv.Atoi(found[i])
		if found[1] == "-" {
			n[i] = -n[i]
		}
	}
	at = at.AddDate(n[2], n[3], 7*n[4]+n[5]).Add(time.Duration(n[6])*time.Hour + time.Duration(n[7])*time.Minute + time.Duration(n[8])*time.Second)
	layout := "yyyy-MM-ddTHH:mm:ssZ"
	if len(args) > 2 && args[2] != nil {
		if layout, err = textOf(e, c, args[2]); err != nil {
			return nil, err
		}
	}
	return stamp(e, c, at, layout)
}

func dateTimeToEpoch(e scope, c call, args []any) (any, error) {
	at, err := timeOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	return at.Unix(), nil
}

func dateTimeFromEpoch(e scope, c call, args []any) (any, error) {
	n, err := intOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	if n < -1<<36 || n > 1<<37 {
		return nil, e.wrong(c, "%d is no time", n)
	}
	return time.Unix(n, 0).UTC().Format("2006-01-02T15:04:05Z"), nil
}
