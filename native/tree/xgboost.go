package tree

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
)

// boostTree is a tree of XGBoost. A node without children is a leaf, whose
// value stands where others have their threshold.
type boostTree struct {
	nodes []boostNode
	sets  [][]uint32
	group int     // the output it adds to
	scale float32 // 1, or the weight of a tree of a DART model
}

type boostNode struct {
	left, right int32 // -1 for none
	feature     int32
	set         int32 // of categories; -1 for none
	value       float32
	missing     bool // goes left
}

// value is what the tree gives for a row.
func (t *boostTree) value(row []float64) float32 {
	at := int32(0)
	for {
		n := &t.nodes[at]
		if n.left < 0 {
			return n.value
		}
		f := row[n.feature]
		left := false
		switch {
		case math.IsNaN(f):
			left = n.missing
		case n.set >= 0:
			// Categories of the set go right, what is none goes left.
			left = f < 0 || f >= 1<<24 || !inSet(t.sets[n.set], int(f))
		default:
			left = float32(f) < n.value
		}
		if left {
			at = n.left
		} else {
			at = n.right
		}
	}
}

// OpenXGBoost loads a model that XGBoost saved as JSON or UBJ. The class is that
// of its scikit-learn interface, such as "xgboost.sklearn.XGBClassifier", or "".
func OpenXGBoost(file, class string) (*Model, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	m, err := ParseXGBoost(b, class)
	if err != nil {
		return nil, fmt.Errorf("%s is no XGBoost model that can be loaded: %w", baseName(file), err)
	}
	return m, nil
}

// ParseXGBoost reads a model that XGBoost wrote as JSON or UBJ.
func ParseXGBoost(b []byte, class string) (*Model, error) {
	var d *document
	var err error
	switch trimmed := bytes.TrimLeft(b, " \t\r\n"); {
	case len(trimmed) > 1 && trimmed[0] == '{' && (bytes.IndexByte([]byte(" \t\r\n\"}"), trimmed[1]) >= 0):
		d, err = parseJSON(b)
	case len(b) > 0 && b[0] == '{':
		d, err = parseUBJ(b)
	case bytes.HasPrefix(b, []byte("binf")) || bytes.HasPrefix(b, []byte("bs64")):
		err = errors.New("it is of XGBoost's old binary format; load it with XGBoost and save it as .json or .ubj")
	default:
		err = errors.New("it is neither JSON nor UBJ; save the model as .json or .ubj")
	}
	if err != nil {
		return nil, err
	}
	return newXGBoost(d, class)
}

func newXGBoost(d *document, class string) (*Model, error) {
	learner := d.at("learner")
	if learner.kind != '{' {
		return nil, errors.New("it has no \"learner\"")
	}
	param := learner.at("learner_model_param")
	features, err := param.at("num_feature").whole(0)
	if err != nil {
		return nil, err
	}
	classes, err := param.at("num_class").whole(0)
	if err != nil {
		return nil, err
	}
	targets, err := param.at("num_target").whole(1)
	if err != nil {
		return nil, err
	}
	groups := max(classes, targets, 1)
	if features < 1 || features > 1<<24 || groups > 1<<16 {
		return nil, fmt.Errorf("it has %d features and %d outputs", features, groups)
	}
	base, err := bases(param.at("base_score"), groups)
	if err != nil {
		return nil, err
	}
	m := &Model{library: "xgboost", single: true, features: features, outputs: groups, columns: groups > 1, names: learner.at("feature_names").strings()}
	objective := learner.at("objective", "name").text
	finish, margin, err := boostObjective(objective)
	if err != nil {
		return nil, err
	}
	for i := range base {
		base[i] = margin(base[i])
	}
	m.finish = finish
	booster := learner.at("gradient_booster")
	switch name := booster.at("name").text; name {
	case "gblinear":
		if err := m.linear(booster, base); err != nil {
			return nil, err
		}
	case "gbtree", "dart":
		inner, weights := booster, booster.at("weight_drop").numbers
		if name == "dart" {
			inner = booster.at("gbtree")
		}
		trees, err := boostTrees(inner.at("model"), features, groups)
		if err != nil {
			return nil, err
		}
		if name == "dart" {
			if len(weights) != len(trees) {
				return nil, fmt.Errorf("it has %d trees and %d weights of them", len(trees), len(weights))
			}
			for i := range trees {
				trees[i].scale = float32(weights[i])
			}
		}
		if class != "" {
			if trees, err = best(trees, learner, inner.at("model"), groups); err != nil {
				return nil, err
			}
		}
		m.score = func(row, sums []float64) {
			for i := range sums {
				sums[i] = float64(base[i])
			}
			for i := range trees {
				t := &trees[i]
				v := t.value(row)
				if t.scale != 1 {
					v *= t.scale
				}
				// Sums are of single precision, as XGBoost's.
				sums[t.group] = float64(float32(sums[t.group]) + v)
			}
		}
	default:
		return nil, fmt.Errorf("its booster %q is not known here", name)
	}
	switch {
	case objective == "multi:softmax":
		inner := m.score
		m.outputs, m.columns = 1, false
		m.score = func(row, sums []float64) {
			all := make([]float64, groups)
			inner(row, all)
			sums[0] = float64(argmax(all))
		}
		m.finish = same
	}
	if strings.Contains(class, "Classifier") {
		m.asClasses(groups, objective)
	}
	return m, nil
}

// asClasses makes the model answer with the number of the class, as XGBoost's
// classifiers for scikit-learn do.
func (m *Model) asClasses(groups int, objective string) {
	score, finish := m.score, m.finish
	m.classes, m.score = true, nil
	switch {
	case objective == "multi:softmax":
		m.score = score
	case objective == "multi:softprob":
		m.outputs, m.columns = 1, false
		m.score = func(row, sums []float64) {
			all := make([]float64, groups)
			score(row, all)
			sums[0] = float64(argmax(all))
		}
	default:
		m.score = func(row, sums []float64) {
			score(row, sums)
			finish(sums)
			for i, p := range sums {
				sums[i] = 0
				if p > 0.5 {
					sums[i] = 1
				}
			}
		}
	}
	m.finish = same
}

func argmax(list []float64) int {
	at := 0
	for i, v := range list {
		if v > list[at] {
			at = i
		}
	}
	return at
}

// bases are the base scores of the outputs: one for all, or one for each.
func bases(d *document, groups int) ([]float32, error) {
	list := d.numbers
	if d.kind == '"' {
		for word := range strings.SplitSeq(strings.Trim(d.text, "[] "), ",") {
			f, err := (&document{kind: '"', text: strings.TrimSpace(word)}).float(0)
			if err != nil {
				return nil, fmt.Errorf("base_score: %w", err)
			}
			list = append(list, f)
		}
	} else if d.kind == '0' {
		list = []float64{d.number}
	}
	if list == nil {
		list = []float64{0.5}
	}
	if len(list) != 1 && len(list) != groups {
		return nil, fmt.Errorf("it has %d base scores for %d outputs", len(list), groups)
	}
	out := make([]float32, groups)
	for i := range out {
		out[i] = float32(list[min(i, len(list)-1)])
	}
	return out, nil
}

// boostObjective returns what an objective makes of the sums of a row, and of
// the base score before.
func boostObjective(name string) (finish func([]float64), margin func(float32) float32, err error) {
	plain := func(x float32) float32 { return x }
	logit := func(x float32) float32 { return float32(-math.Log(float64(1/x - 1))) }
	log := func(x float32) float32 { return float32(math.Log(float64(x))) }
	exp := each(func(x float64) float64 { return float64(float32(math.Exp(x))) })
	switch name {
	case "reg:logistic", "binary:logistic":
		return each(sigmoid), logit, nil
	case "binary:logitraw":
		return same, plain, nil
	case "binary:hinge":
		return each(func(x float64) float64 {
			if x > 0 {
				return 1
			}
			return 0
		}), plain, nil
	case "multi:softprob", "multi:softmax":
		return softmax32, plain, nil
	case "count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft":
		return exp, log, nil
	case "reg:squarederror", "reg:linear", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "reg:quantileerror", "reg:expectileerror",
		"rank:pairwise", "rank:ndcg", "rank:map", "":
		return same, plain, nil
	}
	return nil, nil, fmt.Errorf("its objective %q is not known here", name)
}

func sigmoid(x float64) float64 {
	// exp(88.7) is the largest of single precision.
	return float64(1 / (float32(math.Exp(math.Min(-x, 88.7))) + 1))
}

func softmax32(sums []float64) {
	most := float32(math.Inf(-1))
	for _, s := range sums {
		most = max(most, float32(s))
	}
	total := 0.0
	for i, s := range sums {
		e := float32(math.Exp(float64(float32(s) - most)))
		sums[i] = float64(e)
		total += float64(e)
	}
	for i := range sums {
		sums[i] = float64(float32(sums[i]) / float32(total))
	}
}

// boostTrees reads the trees of a model.
func boostTrees(d *document, features, groups int) ([]boostTree, error) {
	info := d.at("tree_info").numbers
	list := d.at("trees").list
	if len(info) != len(list) {
		return nil, fmt.Errorf("it has %d trees and the groups of %d", len(list), len(info))
	}
	trees := make([]boostTree, len(list))
	for i, t := range list {
		var err error
		if trees[i], err = boostTreeOf(t, features); err != nil {
			return nil, fmt.Errorf("tree %d: %w", i, err)
		}
		if trees[i].group = int(info[i]); info[i] < 0 || int(info[i]) >= groups {
			return nil, fmt.Errorf("tree %d adds to output %v of %d", i, info[i], groups)
		}
	}
	return trees, nil
}

func boostTreeOf(d *document, features int) (boostTree, error) {
	t := boostTree{scale: 1}
	if n, err := d.at("tree_param", "size_leaf_vector").whole(1); err != nil || n > 1 {
		return t, errors.New("its leaves are vectors (multi_strategy multi_output_tree), which native serving does not take; set the property serving.tier to python")
	}
	left, right := d.at("left_children").numbers, d.at("right_children").numbers
	values, which, missing := d.at("split_conditions").numbers, d.at("split_indices").numbers, d.at("default_left").numbers
	n := len(left)
	if n == 0 || n > maxNodes || len(right) != n || len(values) != n || len(which) != n || len(missing) != n {
		return t, fmt.Errorf("its lists have different lengths (%d, %d, %d, %d, %d)", n, len(right), len(values), len(which), len(missing))
	}
	t.nodes = make([]boostNode, n)
	for i := range t.nodes {
		node := boostNode{left: int32(left[i]), right: int32(right[i]), feature: int32(which[i]), set: -1, value: float32(values[i]), missing: missing[i] != 0}
		if node.left >= 0 {
			if node.feature < 0 || int(node.feature) >= features {
				return t, fmt.Errorf("node %d asks for feature %d of %d", i, node.feature, features)
			}
			for _, child := range []int32{node.left, node.right} {
				if child < 0 || int(child) >= n {
					return t, fmt.Errorf("node %d has a child %d that is none", i, child)
				}
			}
		}
		t.nodes[i] = node
	}
	if err := t.ends(); err != nil {
		return t, err
	}
	nodes, segments, sizes := d.at("categories_nodes").numbers, d.at("categories_segments").numbers, d.at("categories_sizes").numbers
	all := d.at("categories").numbers
	if len(segments) != len(nodes) || len(sizes) != len(nodes) {
		return t, errors.New("its sets of categories have different lengths")
	}
	for i := range nodes {
		from, to := int(segments[i]), int(segments[i]+sizes[i])
		if nodes[i] < 0 || int(nodes[i]) >= n || from < 0 || to < from || to > len(all) {
			return t, fmt.Errorf("node %v has no set of categories", nodes[i])
		}
		var set []uint32
		for _, c := range all[from:to] {
			if c < 0 || c >= 1<<24 {
				return t, fmt.Errorf("node %v has a category %v", nodes[i], c)
			}
			for int(c)>>5 >= len(set) {
				set = append(set, 0)
			}
			set[int(c)>>5] |= 1 << (int(c) & 31)
		}
		t.nodes[int(nodes[i])].set = int32(len(t.sets))
		t.sets = append(t.sets, set)
	}
	return t, nil
}

// ends makes sure that every walk through the tree does: no node is the child
// of two.
func (t *boostTree) ends() error {
	parents := make([]bool, len(t.nodes))
	for i, n := range t.nodes {
		if n.left < 0 {
			continue
		}
		for _, child := range []int32{n.left, n.right} {
			if child == 0 || parents[child] {
				return fmt.Errorf("node %d has a child %d that has another parent", i, child)
			}
			parents[child] = true
		}
	}
	return nil
}

// best are the trees up to the best iteration, which the scikit-learn interface
// goes by after early stopping.
func best(trees []boostTree, learner, d *document, groups int) ([]boostTree, error) {
	attribute := learner.at("attributes", "best_iteration")
	if attribute.kind == 0 {
		return trees, nil
	}
	n, err := attribute.whole(0)
	if err != nil {
		return nil, fmt.Errorf("best_iteration: %w", err)
	}
	if ends := d.at("iteration_indptr").numbers; n+1 < len(ends) && n >= 0 {
		return trees[:min(len(trees), max(int(ends[n+1]), 0))], nil
	}
	parallel, err := d.at("gbtree_model_param", "num_parallel_tree").whole(1)
	if err != nil {
		return nil, err
	}
	return trees[:min(len(trees), max((n+1)*groups*max(parallel, 1), 0))], nil
}

// linear reads a linear model.
func (m *Model) linear(booster *document, base []float32) error {
	w := booster.at("model", "weights").numbers
	groups := m.outputs
	if len(w) != (m.features+1)*groups {
		return fmt.Errorf("it has %d weights for %d features and %d outputs", len(w), m.features, groups)
	}
	m.score = func(row, sums []float64) {
		for g := range sums {
			sum := float32(w[m.features*groups+g]) + base[0]
			for i, f := range row {
				if !math.IsNaN(f) {
					sum += float32(f) * float32(w[i*groups+g])
				}
			}
			sums[g] = float64(sum)
		}
	}
	return nil
}
