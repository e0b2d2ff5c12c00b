package job

import (
	"context"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/resource"
)

// list answers a page of jobs, newest first, out of the index of runs.
func (s *Service) list(ctx context.Context, q resource.Query, o resource.Options) (resource.Page, error) {
	site, err := ml.SiteOf(ctx, s.Resources, q.Parent)
	if err != nil {
		return resource.Page{}, err
	}
	before := int64(0)
	if q.After != "" {
		if before, err = strconv.ParseInt(q.After, 10, 64); err != nil {
			return resource.Page{}, fault.Invalid("the continuation token is not one of this server's; start the list again").With("InvalidContinuationToken").At("$skip")
		}
	}
	limit := q.Limit
	if limit == 0 {
		limit = 100
	}
	kind, tag := strings.ToLower(o["jobtype"]), o["tag"]
	var page resource.Page
	for len(page.Resources) < limit {
		runs, err := s.Runs.ListJobs(ctx, site.GUID, tracking.JobFilter{Hidden: q.Archived}, before, limit)
		if err != nil {
			return resource.Page{}, err
		}
		ids := make([]resource.ID, len(runs))
		for i, r := range runs {
			ids[i] = site.ID.Child("jobs", r.ID)
		}
		found, err := s.Resources.GetMany(ctx, ids)
		if err != nil {
			return resource.Page{}, err
		}
		for i, run := range runs {
			before = run.Seq
			r, ok := found[ids[i].Key()]
			if !ok || !wanted(r, run, kind, tag) {
				continue
			}
			page.Resources = append(page.Resources, r)
			if len(page.Resources) == limit {
				break
			}
		}
		if len(runs) < limit {
			return page, nil
		}
	}
	page.Next = strconv.FormatInt(before, 10)
	return page, nil
}

// wanted tells whether a job is of the kind, and has the tag, that are asked for.
func wanted(r resource.Resource, run tracking.Run, kind, tag string) bool {
	if kind != "" {
		p, err := resource.ParseDocument(r.Properties)
		if err != nil || !strings.EqualFold(p.Text("jobType"), kind) {
			return false
		}
	}
	if tag == "" {
		return true
	}
	name, value, both := strings.Cut(tag, "=")
	have, ok := run.Tags[name]
	return ok && (!both || have == value)
}
