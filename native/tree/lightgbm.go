package tree

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// lightTree is a tree of LightGBM. A child below zero is leaf ^child.
type lightTree struct {
	nodes  []lightNode
	leaves []float64
	linear []lightLeaf // of a linear tree; nil for none
}

type lightNode struct {
	feature     int32
	left, right int32
	kind        uint8
	threshold   float64
	set         []uint32
}

// lightLeaf is a leaf with a linear function.
type lightLeaf struct {
	constant     float64
	features     []int
	coefficients []float64
}

// The bits of a node's kind.
const (
	lightCategorical = 1
	lightLeft        = 2 // where missing values go
	lightZero        = 1 // missing: zero and NaN
	lightNaN         = 2 // missing: NaN
)

// zero is what LightGBM takes for zero.
const zero = 1e-35

// leaf finds the leaf of a row.
func (t *lightTree) leaf(row []float64) int {
	if len(t.nodes) == 0 {
		return 0
	}
	at := int32(0)
	for at >= 0 {
		n := &t.nodes[at]
		f := row[n.feature]
		left := false
		if n.kind&lightCategorical != 0 {
			left = !math.IsNaN(f) && f > -1 && f < 1<<31 && inSet(n.set, int(f))
		} else {
			missing := n.kind >> 2 & 3
			nan := math.IsNaN(f)
			if nan && missing != lightNaN {
				f, nan = 0, false
			}
			if missing == lightZero && f >= -zero && f <= zero || missing == lightNaN && nan {
				left = n.kind&lightLeft != 0
			} else {
				left = f <= n.threshold
			}
		}
		if left {
			at = n.left
		} else {
			at = n.right
		}
	}
	return int(^at)
}

func (t *lightTree) value(row []float64) float64 {
	leaf := t.leaf(row)
	if t.linear == nil {
		return t.leaves[leaf]
	}
	l := &t.linear[leaf]
	sum := l.constant
	for i, f := range l.features {
		if math.IsNaN(row[f]) {
			return t.leaves[leaf]
		}
		sum += l.coefficients[i] * row[f]
	}
	return sum
}

// fields are lines "name=value".
type fields map[string]string

func (f fields) whole(name string, missing int) (int, error) {
	s, ok := f[name]
	if !ok {
		return missing, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%s is no whole number: %q", name, s)
	}
	return n, nil
}

func (f fields) numbers(name string, n int) ([]float64, error) {
	words := strings.Fields(f[name])
	if n >= 0 && len(words) != n {
		return nil, fmt.Errorf("%s has %d values, and %d are needed", name, len(words), n)
	}
	out := make([]float64, len(words))
	for i, w := range words {
		v, err := strconv.ParseFloat(w, 64)
		if err != nil && !strings.Contains(err.Error(), "range") {
			return nil, fmt.Errorf("%s has %q, which is no number", name, w)
		}
		out[i] = v
	}
	return out, nil
}

// OpenLightGBM loads a model that LightGBM saved as text.
func OpenLightGBM(file string) (*Model, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	m, err := ParseLightGBM(b)
	if err != nil {
		return nil, fmt.Errorf("%s is no LightGBM model that can be loaded: %w", baseName(file), err)
	}
	return m, nil
}

// ParseLightGBM reads a model that LightGBM wrote as text.
func ParseLightGBM(b []byte) (*Model, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("tree")) {
		return nil, fmt.Errorf("it does not begin with the line \"tree\"")
	}
	text, _, complete := strings.Cut(strings.ReplaceAll(string(b), "\r\n", "\n"), "\nend of trees")
	if !complete {
		return nil, fmt.Errorf("it ends before the line \"end of trees\"")
	}
	parts := strings.Split(text, "\nTree=")
	head := readFields(parts[0])
	classes, err := head.whole("num_class", 1)
	if err != nil {
		return nil, err
	}
	perIteration, err := head.whole("num_tree_per_iteration", classes)
	if err != nil {
		return nil, err
	}
	last, err := head.whole("max_feature_idx", -1)
	if err != nil {
		return nil, err
	}
	if perIteration < 1 || perIteration > 1<<16 || last < 0 || last > 1<<24 {
		return nil, fmt.Errorf("its head has no sensible num_tree_per_iteration and max_feature_idx")
	}
	trees := make([]lightTree, len(parts)-1)
	for i, part := range parts[1:] {
		if trees[i], err = readLightTree(readFields(part), last+1); err != nil {
			return nil, fmt.Errorf("tree %d: %w", i, err)
		}
	}
	_, average := head["average_output"]
	iterations := float64(max(len(trees)/perIteration, 1))
	m := &Model{library: "lightgbm", features: last + 1, outputs: perIteration, columns: perIteration > 1, names: strings.Fields(head["feature_names"])}
	m.score = func(row, sums []float64) {
		clear(sums)
		for i := range trees {
			sums[i%perIteration] += trees[i].value(row)
		}
		if average {
			for i := range sums {
				sums[i] /= iterations
			}
		}
	}
	m.finish, err = lightFinish(head["objective"])
	return m, err
}

// readFields reads lines "name=value"; a line without "=" is a name alone.
func readFields(text string) fields {
	f := fields{}
	for line := range strings.SplitSeq(text, "\n") {
		name, value, _ := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); name != "" {
			f[name] = strings.TrimSpace(value)
		}
	}
	return f
}

func readLightTree(f fields, features int) (lightTree, error) {
	var t lightTree
	leaves, err := f.whole("num_leaves", 0)
	if err != nil || leaves < 1 || leaves > maxNodes {
		return t, fmt.Errorf("num_leaves is %q", f["num_leaves"])
	}
	if t.leaves, err = f.numbers("leaf_value", leaves); err != nil {
		return t, err
	}
	linear, err := f.whole("is_linear", 0)
	if err == nil && linear == 1 {
		err = t.readLinear(f, features)
	}
	if err != nil || leaves == 1 {
		return t, err
	}
	n := leaves - 1
	columns := map[string][]float64{}
	for _, name := range []string{"split_feature", "threshold", "decision_type", "left_child", "right_child"} {
		if columns[name], err = f.numbers(name, n); err != nil {
			return t, err
		}
	}
	var bounds, bits []float64
	if cats, err := f.whole("num_cat", 0); err != nil {
		return t, err
	} else if cats > 0 {
		if bounds, err = f.numbers("cat_boundaries", cats+1); err != nil {
			return t, err
		}
		if bits, err = f.numbers("cat_threshold", -1); err != nil {
			return t, err
		}
	}
	t.nodes = make([]lightNode, n)
	for i := range t.nodes {
		node := lightNode{feature: int32(columns["split_feature"][i]), threshold: columns["threshold"][i], kind: uint8(columns["decision_type"][i]),
			left: int32(columns["left_child"][i]), right: int32(columns["right_child"][i])}
		if node.feature < 0 || int(node.feature) >= features {
			return t, fmt.Errorf("node %d asks for feature %d of %d", i, node.feature, features)
		}
		for _, child := range []int32{node.left, node.right} {
			// Children come later than their parent, so that every walk ends.
			if child >= 0 && (int(child) >= n || int(child) <= i) || child < 0 && int(^child) >= leaves {
				return t, fmt.Errorf("node %d has a child %d that is none", i, child)
			}
		}
		if node.kind&lightCategorical != 0 {
			k := int(node.threshold)
			if k < 0 || k+1 >= len(bounds) || bounds[k] < 0 || bounds[k] > bounds[k+1] || int(bounds[k+1]) > len(bits) {
				return t, fmt.Errorf("node %d has no set of categories", i)
			}
			for _, b := range bits[int(bounds[k]):int(bounds[k+1])] {
				node.set = append(node.set, uint32(b))
			}
		}
		t.nodes[i] = node
	}
	return t, nil
}

func (t *lightTree) readLinear(f fields, features int) error {
	n := len(t.leaves)
	constants, err := f.numbers("leaf_const", n)
	if err != nil {
		return err
	}
	counts, err := f.numbers("num_features", n)
	if err != nil {
		return err
	}
	which, err := f.numbers("leaf_features", -1)
	if err != nil {
		return err
	}
	factors, err := f.numbers("leaf_coeff", len(which))
	if err != nil {
		return err
	}
	t.linear = make([]lightLeaf, n)
	at := 0
	for i := range t.linear {
		k := int(counts[i])
		if k < 0 || at+k > len(which) {
			return fmt.Errorf("leaf %d asks for %d features", i, k)
		}
		l := lightLeaf{constant: constants[i], coefficients: factors[at : at+k]}
		for _, w := range which[at : at+k] {
			if w < 0 || int(w) >= features {
				return fmt.Errorf("leaf %d asks for feature %v of %d", i, w, features)
			}
			l.features = append(l.features, int(w))
		}
		at += k
		t.linear[i] = l
	}
	return nil
}

// lightFinish is the last step of an objective, such as "binary sigmoid:1".
func lightFinish(objective string) (func([]float64), error) {
	words := strings.Fields(objective)
	if len(words) == 0 {
		return same, nil
	}
	sigmoid := 1.0
	for _, w := range words[1:] {
		if value, ok := strings.CutPrefix(w, "sigmoid:"); ok {
			var err error
			if sigmoid, err = strconv.ParseFloat(value, 64); err != nil {
				return nil, fmt.Errorf("its objective is %q", objective)
			}
		}
	}
	switch words[0] {
	case "binary", "multiclassova", "multiclass_ova", "ova", "ovr":
		return each(func(x float64) float64 { return 1 / (1 + math.Exp(-sigmoid*x)) }), nil
	case "multiclass", "softmax":
		return softmax, nil
	case "poisson", "gamma", "tweedie":
		return each(math.Exp), nil
	case "cross_entropy", "xentropy":
		return each(func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }), nil
	case "cross_entropy_lambda", "xentlambda":
		return each(func(x float64) float64 { return math.Log1p(math.Exp(x)) }), nil
	case "regression", "regression_l2", "regression_l1", "l1", "l2", "mean_squared_error", "mse", "rmse", "huber", "fair", "quantile", "mape":
		if slices.Contains(words[1:], "sqrt") {
			return each(func(x float64) float64 { return math.Copysign(x*x, x) }), nil
		}
		return same, nil
	case "lambdarank", "rank_xendcg", "custom", "none", "null", "na":
		return same, nil
	}
	return nil, fmt.Errorf("its objective %q is not known here", words[0])
}
