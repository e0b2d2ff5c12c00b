package endpoint

import (
	"context"
	"encoding/json"
	"strings"

	"lapis/fault"
	"lapis/resource"
)

// past is the version of a deployment before the one that serves.
type past struct {
	Previous *struct {
		Body json.RawMessage `json:"body"` // what a PUT of it would send
	} `json:"previous"`
	Failure *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"failure"`
}

func pastOf(r resource.Resource) past {
	var p past
	if len(r.Status) > 0 {
		_ = json.Unmarshal(r.Status, &p) // the server's own
	}
	return p
}

// beginRestore writes a deployment as it was before its last update. What
// serves is replaced as by any other update.
func (s *Service) beginRestore(ctx context.Context, call resource.Call) error {
	if err := busy("online deployment", &call.Resource); err != nil {
		return err
	}
	p := pastOf(call.Resource)
	if p.Previous == nil || len(p.Previous.Body) == 0 || s.Write == nil {
		return fault.Conflicts("The deployment '%s' has had no version before the one that it has.", call.ID.Name()).With("NothingToRollBack").At(call.ID.String())
	}
	return s.Write(ctx, call, p.Previous.Body)
}

// restored tells how the update that beginRestore began has ended.
func (s *Service) restored(ctx context.Context, call resource.Call) (any, error) {
	if StateOf(call.Resource) != resource.Failed {
		return nil, nil
	}
	code, why := "ResourceNotReady", "see its log"
	if f := pastOf(call.Resource).Failure; f != nil {
		code, why = f.Code, f.Message
	}
	first, rest, _ := strings.Cut(why, "\n")
	return nil, fault.Conflicts("The version before does not come up either: %s\n%s", first, rest).With(code).At(call.ID.String())
}
