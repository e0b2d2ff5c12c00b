package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"lapis/fault"
	"lapis/resource/identity"
)

// local speaks to the folder's server over plain HTTP on loopback, as the
// administrator.
type local struct {
	base  string
	token string
	http  *http.Client
}

// local makes a token of its own, which ends with the command: call done.
func (f *folder) local() (c *local, done func(), err error) {
	if err := f.private(); err != nil {
		return nil, nil, err
	}
	info, err := f.readServer()
	if err != nil {
		return nil, nil, err
	}
	w, err := f.loadIdentity()
	if err != nil {
		return nil, nil, err
	}
	files := tokenFiles{f}
	word, stored := identity.NewLongToken(w.admin(), "command", time.Now())
	stored.Expires = time.Now().Add(time.Hour).UTC()
	if err := files.put(stored); err != nil {
		return nil, nil, err
	}
	transport := &http.Transport{Proxy: nil} // never over a proxy: it is this machine
	c = &local{base: info.Plain, token: word, http: &http.Client{Timeout: 30 * time.Second, Transport: transport}}
	return c, func() { files.revoke(stored.ID); transport.CloseIdleConnections() }, nil
}

// call makes one request; the answer is decoded into out, if it is not nil.
func (c *local) call(ctx context.Context, method, path string, out any) error {
	url := path
	if strings.HasPrefix(path, "/") {
		url = c.base + path
	}
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(nil))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(r)
	if err != nil {
		return fault.New(fault.Unavailable, "NoAnswer", "The server does not answer at %s: %v", c.base, err).From(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		var e struct {
			Error struct{ Code, Message string }
		}
		if json.Unmarshal(body, &e) == nil && e.Error.Message != "" {
			kind := fault.BadRequest
			if resp.StatusCode == http.StatusNotFound {
				kind = fault.Missing
			}
			return fault.New(kind, e.Error.Code, "%s", e.Error.Message)
		}
		return fmt.Errorf("%s %s: HTTP %d", method, path, resp.StatusCode)
	}
	if out == nil || len(body) == 0 {
		return nil
	}
	return json.Unmarshal(body, out)
}

// page is a page of an ARM listing.
type page struct {
	Value []struct {
		ID         string
		Name       string
		Properties struct{ Status string }
	}
	NextLink string
}

// each calls do for every resource of a listing.
func (c *local) each(ctx context.Context, path string, do func(id, name, status string) error) error {
	for path != "" {
		var p page
		if err := c.call(ctx, http.MethodGet, path, &p); err != nil {
			return err
		}
		for _, r := range p.Value {
			if err := do(r.ID, r.Name, r.Properties.Status); err != nil {
				return err
			}
		}
		path = p.NextLink
	}
	return nil
}

const mlVersion = "?api-version=2025-01-01-preview"

// openJobs are the ids of the jobs of all workspaces that have not ended.
func (c *local) openJobs(ctx context.Context, subscription string) ([]string, error) {
	var open []string
	err := c.each(ctx, "/subscriptions/"+subscription+"/providers/Microsoft.MachineLearningServices/workspaces"+mlVersion, func(id, _, _ string) error {
		return c.each(ctx, id+"/jobs"+mlVersion, func(id, _, status string) error {
			switch status {
			case "Completed", "Failed", "Canceled":
			default:
				open = append(open, id)
			}
			return nil
		})
	})
	return open, err
}

// cancelJobs cancels all jobs that have not ended, waits for their end, and
// tells how many they were.
func (f *folder) cancelJobs(ctx context.Context, out io.Writer) (int, error) {
	c, done, err := f.local()
	if err != nil {
		return 0, err
	}
	defer done()
	w, err := f.loadIdentity()
	if err != nil {
		return 0, err
	}
	open, err := c.openJobs(ctx, w.Subscription)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, id := range open {
		err := c.call(ctx, http.MethodPost, id+"/cancel"+mlVersion, nil)
		if fault.Is(err, fault.BadRequest) || fault.Is(err, fault.Missing) {
			err = nil // it has ended meanwhile, which the wait below finds out
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	for end := time.Now().Add(cancelWithin); ; {
		left, err := c.openJobs(ctx, w.Subscription)
		if err != nil || len(left) == 0 {
			return len(open), err
		}
		if time.Now().After(end) {
			return 0, fault.New(fault.Unavailable, "StillRunning", "%d job(s) have not ended within %s, such as %s. The server goes on; run this again.", len(left), cancelWithin, left[0])
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}
