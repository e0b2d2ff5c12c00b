package main

import (
	"context"
	"fmt"
	"maps"

	"lapis/backend/meter"
	"lapis/backend/spool"
	"lapis/edge/armhttp"
	"lapis/edge/promhttp"
	"lapis/ml/autoscale"
	"lapis/ml/blob"
	"lapis/ml/collect"
	"lapis/ml/endpoint"
	"lapis/ml/monitor"
	"lapis/ml/rollout"
	"lapis/ml/serving"
	"lapis/resource"
)

// watch is what looks at online endpoints and steers them: metrics, and what
// follows from them.
type watch struct {
	monitor *monitor.Monitor
}

// settingTypes are the types of what steers.
func settingTypes(resources resource.Store) []*resource.Type {
	return []*resource.Type{autoscale.Settings(resources)}
}

// newWatch makes what watches the gateway.
func (v *server) newWatch(resources resource.Store, blobs blob.Store) (*watch, error) {
	var uses monitor.Meter
	if v.deployer != nil {
		has := machine()
		uses = meter.New(meter.Config{Processes: v.deployer.Processes, Resources: resources, Cores: has.Cores, Memory: has.Memory, Disk: v.folder.dir})
	}
	m, err := monitor.New(monitor.Config{Gateway: v.gateway, Resources: resources, Meter: uses, Dir: v.folder.path("metrics"), Log: v.log, Now: now})
	if err != nil {
		return nil, fmt.Errorf("open the metrics: %w", err)
	}
	if v.deployer != nil {
		collector := collect.New(collect.Config{Spool: spool.New(v.folder.path("gateway", serving.SpoolFolder), v.folder.path("serving", serving.SpoolFolder)),
			Blobs: blobs, Resources: resources, Register: v.register, Log: v.log, Now: now})
		v.loops = append(v.loops, loop{"data collection", collector.Run})
		scaler := autoscale.New(autoscale.Config{Resources: resources, Monitor: m, Scaler: v.deployer, Log: v.log, Now: now})
		rollouts := rollout.New(rollout.Config{Resources: resources, Monitor: m, Gateway: v.gateway, Router: v.deployer, Log: v.log, Now: now})
		v.loops = append(v.loops, loop{"autoscale", scaler.Run}, loop{"rollouts", rollouts.Run})
		// The types are known already; what endpoints can be asked for beside is added.
		if t, err := v.manager.Types().Find(endpoint.EndpointType); err == nil {
			maps.Copy(t.Actions, rollouts.Actions())
		}
	}
	v.loops = append(v.loops, loop{"metrics of endpoints", m.Run})
	return &watch{monitor: m}, nil
}

// routes are the ARM paths of what watches.
func (w *watch) routes(v *server) []armhttp.Route {
	return append(armhttp.Metrics{Manager: v.manager, Monitor: w.monitor, Location: v.who.Location, Now: now}.Routes(),
		armhttp.ActivityLog{Manager: v.manager, Now: now}.Routes()...)
}

// prometheus answers /metrics.
func (w *watch) prometheus(v *server) *promhttp.Server {
	return promhttp.New(promhttp.Config{Gateway: v.gateway, Monitor: w.monitor, Auth: v.auth, Version: version(), Started: now(), Log: v.log,
		Figures: func(ctx context.Context) (map[string]float64, error) {
			jobs, err := v.openJobs(ctx)
			if err != nil {
				return nil, err
			}
			figures := map[string]float64{"lapis_jobs_open": float64(jobs)}
			endpoints, err := monitor.Endpoints(ctx, v.manager.Store())
			if err != nil {
				return nil, err
			}
			deployments, err := monitor.Deployments(ctx, v.manager.Store())
			if err != nil {
				return nil, err
			}
			figures["lapis_online_endpoints"] = float64(len(endpoints))
			figures["lapis_online_deployments"] = float64(len(deployments))
			return figures, nil
		}})
}
