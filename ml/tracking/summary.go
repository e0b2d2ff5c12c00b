package tracking

import (
	"cmp"
	"context"
	"slices"
)

// DatasetSummary says that runs of an experiment read a dataset.
type DatasetSummary struct {
	Experiment, Name, Digest string
	Context                  string // what for: "training"; "" if the run did not say
}

// tagContext tells what a run read a dataset for.
const tagContext = "mlflow.data.context"

// DatasetsOf tells which datasets the active runs of experiments read, each
// once, at most so many.
func (s *Service) DatasetsOf(ctx context.Context, workspace string, experiments []string, most int) ([]DatasetSummary, error) {
	seen := map[DatasetSummary]bool{}
	q := RunSearch{Experiments: experiments, Filter: "dataset.name LIKE '%'", View: ActiveOnly, Limit: 1000}
	for {
		runs, next, err := s.SearchRuns(ctx, workspace, q)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			for _, in := range r.Datasets {
				d := DatasetSummary{Experiment: r.Experiment, Name: in.Dataset.Name, Digest: in.Dataset.Digest}
				for _, t := range in.Tags {
					if t.Key == tagContext {
						d.Context = t.Value
					}
				}
				seen[d] = true
			}
		}
		if q.Page = next; next == "" || len(seen) >= most {
			break
		}
	}
	list := make([]DatasetSummary, 0, len(seen))
	for d := range seen {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b DatasetSummary) int {
		return cmp.Or(cmp.Compare(a.Experiment, b.Experiment), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Digest, b.Digest), cmp.Compare(a.Context, b.Context))
	})
	return list[:min(len(list), most)], nil
}
