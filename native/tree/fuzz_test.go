package tree

import (
	"testing"
	"time"

	"lapis/native/tensor"
)

// run scores one row of ones, so that every walk is tried for its end.
func run(t *testing.T, m *Model, err error) {
	if err != nil || m.features > 1000 || m.outputs > 1000 {
		return
	}
	row := tensor.Tensor{Type: tensor.Float64, Shape: []int64{1, int64(m.features)}}
	for range m.features {
		row.Data = tensor.AppendFloat(row.Data, tensor.Float64, 1)
	}
	if _, err := m.Run([]tensor.Tensor{row}, []int{0}, time.Time{}); err != nil {
		t.Errorf("a model that loads scores a row of its width: %v", err)
	}
}

func FuzzLightGBM(f *testing.F) {
	f.Add([]byte("tree\nnum_class=1\nmax_feature_idx=1\nobjective=binary sigmoid:1\n\nTree=0\nnum_leaves=2\nnum_cat=1\nsplit_feature=0\nthreshold=0\ndecision_type=1\nleft_child=-1\nright_child=-2\nleaf_value=1 2\ncat_boundaries=0 1\ncat_threshold=6\n\nend of trees\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseLightGBM(b)
		run(t, m, err)
	})
}

func FuzzXGBoost(f *testing.F) {
	const tree = `{"tree_param":{"size_leaf_vector":"1"},"left_children":[1,-1,-1],"right_children":[2,-1,-1],"split_conditions":[0.5,1,2],"split_indices":[0,0,0],"default_left":[1,0,0],"categories":[],"categories_nodes":[],"categories_segments":[],"categories_sizes":[]}`
	f.Add([]byte(`{"learner":{"gradient_booster":{"name":"gbtree","model":{"tree_info":[0],"trees":[`+tree+`]}},"learner_model_param":{"base_score":"5E-1","num_class":"0","num_feature":"2","num_target":"1"},"objective":{"name":"binary:logistic"}}}`), "")
	f.Add([]byte(`{"learner":{"gradient_booster":{"name":"gblinear","model":{"weights":[1,2,3]}},"learner_model_param":{"base_score":"[5E-1]","num_feature":"2"},"objective":{"name":"reg:squarederror"}}}`), "xgboost.sklearn.XGBClassifier")
	f.Add([]byte("{L\x00\x00\x00\x00\x00\x00\x00\x07learner{}}"), "")
	f.Fuzz(func(t *testing.T, b []byte, class string) {
		m, err := ParseXGBoost(b, class)
		run(t, m, err)
	})
}
