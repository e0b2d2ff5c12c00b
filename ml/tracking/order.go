package tracking

import (
	"cmp"
	"strings"
)

// Order is one key to sort by.
type Order struct {
	of   entity
	Key  string
	Desc bool
}

// ParseOrder reads one order_by: a name, then ASC or DESC.
func (g *Grammar) ParseOrder(s string) (Order, error) {
	list := tokens(s)
	if len(list) == 0 {
		return Order{}, invalid("Invalid order_by clause '%s'. Could not be parsed.", s)
	}
	if list[0].kind != 'i' || len(list) > 2 || word(list, 0, "ASC") || word(list, 0, "DESC") {
		return Order{}, invalid("Invalid order_by clause '%s'. Could not be parsed.", s)
	}
	o := Order{}
	if len(list) == 2 {
		switch {
		case word(list, 1, "DESC"):
			o.Desc = true
		case word(list, 1, "ASC"):
		default:
			return o, invalid("Invalid ordering key in order_by clause '%s'.", s)
		}
	}
	if g.traces {
		err := o.ofTrace(list[0].text)
		return o, err
	}
	var err error
	o.of, o.Key, err = g.name(list[0].text)
	switch {
	case err != nil:
	case o.of == datasetOf:
		err = invalid("Invalid identifier type 'dataset'")
	case g.onlyAttributes && o.of != attribute:
		err = invalid("Invalid order_by entity: %s", (&Clause{of: o.of}).Of())
	case o.of >= metadata:
		err = invalid("Invalid order_by entity: order by a metric, parameter, tag or attribute.")
	}
	return o, err
}

func (g *Grammar) orders(list []string) ([]Order, error) {
	var orders []Order
	for _, text := range list {
		o, err := g.ParseOrder(text)
		if err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, nil
}

// sortValue is one thing to sort by. What is missing comes last whatever the
// direction, NaN just before it.
type sortValue struct {
	rank   int8 // 0 there, 1 NaN, 2 missing
	text   string
	number float64
}

func textValue(s string, there bool) sortValue {
	if !there {
		return sortValue{rank: 2}
	}
	return sortValue{text: s}
}

func numberValue(v float64) sortValue {
	if v != v {
		return sortValue{rank: 1}
	}
	return sortValue{number: v}
}

func (o Order) compare(a, b sortValue) int {
	if a.rank != b.rank {
		return cmp.Compare(a.rank, b.rank)
	}
	var c int
	switch {
	case a.number < b.number:
		c = -1
	case a.number > b.number:
		c = 1
	default:
		c = strings.Compare(a.text, b.text)
	}
	if o.Desc {
		return -c
	}
	return c
}

// Value is a text or a number to sort by, or nothing, which comes last.
type Value struct {
	Text    string
	Number  float64
	Missing bool
}

// Compare puts two values in the order of o.
func (o Order) Compare(a, b Value) int {
	value := func(v Value) sortValue {
		if v.Missing {
			return sortValue{rank: 2}
		}
		return sortValue{text: v.Text, number: v.Number}
	}
	return o.compare(value(a), value(b))
}

// Of returns the kind of what is sorted by.
func (o *Order) Of() string { return entityNames[o.of] }
