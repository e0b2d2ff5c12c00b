package endpoint

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/compute"
	"lapis/pattern"
	"lapis/resource"
)

// The bounds of a deployment's settings.
const (
	maxTimeout     = 180 * time.Second // of a request
	maxLongTimeout = 300 * time.Second // of a Kubernetes deployment's, and a prompt flow's
	maxConcurrent  = 100_000
	maxProbe       = 24 * time.Hour
	maxAttempts    = 10_000
	maxVariables   = 1000
	maxCollections = 5
)

var (
	rollingRates = []string{"Minute", "Hour", "Day", "Month", "Year"}
	scaleTypes   = []string{"Default", "TargetUtilization"}
	computeTypes = []string{"Managed", "Kubernetes"}
)

// defaultInstance is the instance type of a managed deployment that names none.
const defaultInstance = "Standard_F4s_v2"

// instanceType refuses an instance type that there is none of. Those of a
// Kubernetes cluster are named by its owner.
func instanceType(p resource.Document, kind string) error {
	name := p.Text("instanceType")
	if kind != "Managed" {
		return nil
	}
	if name == "" {
		p.Set("instanceType", defaultInstance)
		return nil
	}
	if _, ok := compute.ParseSize(name); !ok {
		return invalid("instanceType", "is %q, which is no instance type; near ones are %s; see `lapis compute list-sizes`", fault.Clip(name), strings.Join(compute.Near(name, 3), ", ")).With("InvalidVmSize")
	}
	return nil
}

// span checks a duration and writes the default where there is none.
func span(d resource.Document, at, field, otherwise string, least, most time.Duration) error {
	d.Default(field, otherwise)
	var given string
	if err := json.Unmarshal(d[field], &given); err != nil {
		return invalid(at+"."+field, "must be a duration in ISO 8601's form, such as %s", otherwise)
	}
	got, err := compute.ParseDuration(given)
	if err != nil {
		return invalid(at+"."+field, "is wrong: %v", err)
	}
	if got < least || got > most {
		return invalid(at+"."+field, "is %s; it must be from %s to %s", fault.Clip(given), least, most)
	}
	return nil
}

// number checks a whole number and writes the default where there is none.
func number(d resource.Document, at, field string, otherwise, least, most int) (int, error) {
	d.Default(field, otherwise)
	var n int
	if err := json.Unmarshal(d[field], &n); err != nil {
		return 0, invalid(at+"."+field, "must be a whole number from %d", least)
	}
	if n < least || n > most {
		return 0, invalid(at+"."+field, "is %d; it must be from %d to %d", n, least, most)
	}
	return n, nil
}

func requests(p resource.Document, kind string, properties map[string]string) error {
	const at = "requestSettings"
	d, err := object(p, at, "requestTimeout", "maxConcurrentRequestsPerInstance", "maxQueueWait")
	if err != nil {
		return err
	}
	most := maxTimeout
	if kind != "Managed" || flow(p, properties) {
		most = maxLongTimeout
	}
	if err := span(d, at, "requestTimeout", "PT5S", time.Millisecond, most); err != nil {
		return err
	}
	if _, err := number(d, at, "maxConcurrentRequestsPerInstance", 1, 1, maxConcurrent); err != nil {
		return err
	}
	if err := span(d, at, "maxQueueWait", "PT0.5S", 0, maxLongTimeout); err != nil {
		return err
	}
	p[at] = d.Raw()
	return nil
}

// flow tells whether a prompt flow is served, which may take longer.
func flow(p resource.Document, properties map[string]string) bool {
	for name := range properties {
		if strings.HasPrefix(strings.ToLower(name), "azureml.promptflow") {
			return true
		}
	}
	variables := p.Object("environmentVariables")
	for name := range variables {
		if strings.HasPrefix(name, "PROMPTFLOW_") || name == "PRT_CONFIG_OVERRIDE" {
			return true
		}
	}
	return false
}

func probe(p resource.Document, at string) error {
	d, err := object(p, at, "initialDelay", "period", "timeout", "successThreshold", "failureThreshold")
	if err != nil {
		return err
	}
	for field, otherwise := range map[string]string{"initialDelay": "PT10S", "period": "PT10S", "timeout": "PT2S"} {
		if err := span(d, at, field, otherwise, time.Second, maxProbe); err != nil {
			return err
		}
	}
	most := maxAttempts
	if at == "livenessProbe" {
		most = 1
	}
	if _, err := number(d, at, "successThreshold", 1, 1, most); err != nil {
		return err
	}
	if _, err := number(d, at, "failureThreshold", 30, 1, maxAttempts); err != nil {
		return err
	}
	p[at] = d.Raw()
	return nil
}

// MinInstancesProperty, of a deployment, says how few instances it may have; 0
// lets it go to sleep when nobody calls.
const MinInstancesProperty = "serving.min_instances"

// scaling checks the scale settings. Target utilisation is Kubernetes' in Azure;
// here managed deployments have it as well.
func scaling(p resource.Document, kind string, properties map[string]string) error {
	const at = "scaleSettings"
	d, err := object(p, at, "scaleType", "minInstances", "maxInstances", "pollingInterval", "targetUtilizationPercentage")
	if err != nil {
		return err
	}
	how, err := word(d, "scaleType", at+".scaleType", scaleTypes)
	if err != nil {
		return err
	}
	if how == "" {
		if how = "Default"; kind != "Managed" || d["maxInstances"] != nil || d["targetUtilizationPercentage"] != nil {
			how = "TargetUtilization"
		}
		d.Set("scaleType", how)
	}
	if how == "TargetUtilization" {
		least, err := number(d, at, "minInstances", 1, 0, MaxInstances)
		if err != nil {
			return err
		}
		if _, err := number(d, at, "maxInstances", max(1, least), max(1, least), MaxInstances); err != nil {
			return err
		}
		if err := span(d, at, "pollingInterval", "PT1S", time.Second, time.Hour); err != nil {
			return err
		}
		if _, err := number(d, at, "targetUtilizationPercentage", 70, 1, 100); err != nil {
			return err
		}
	}
	p[at] = d.Raw()
	if v := properties[MinInstancesProperty]; v != "" {
		if n, err := strconv.Atoi(v); err != nil || n < 0 || n > MaxInstances {
			return invalid("properties."+MinInstancesProperty, "is %q; it must be a whole number from 0 to %d", fault.Clip(v), MaxInstances)
		}
	}
	return nil
}

// collector checks what is collected. An older shape had one collection of
// requests and answers; it is kept as it came.
func collector(p resource.Document) error {
	const at = "dataCollector"
	if _, ok := p[at]; !ok {
		return nil
	}
	d, err := object(p, at, "collections", "rollingRate", "samplingRate", "requestLogging", "enabled", "destination", "samplingStrategy")
	if err != nil {
		return err
	}
	if _, err := word(d, "rollingRate", at+".rollingRate", rollingRates); err != nil {
		return err
	}
	d.Default("rollingRate", "Hour")
	if err := share(d, at+".samplingRate"); err != nil {
		return err
	}
	collections, err := resource.ParseDocument(d["collections"])
	if err != nil {
		return invalid(at+".collections", "must be an object of collections by name")
	}
	if old, ok := d["enabled"]; ok && len(collections) == 0 {
		if err := olderCollector(d, collections, old); err != nil {
			return err
		}
	}
	if len(collections) > maxCollections {
		return invalid(at+".collections", "are %d; at most %d are allowed", len(collections), maxCollections)
	}
	for _, name := range collections.Names() {
		where := at + ".collections." + name
		if !collectionName.MatchString(name) {
			return invalid(at+".collections", "has %q, which is no name of a collection (letters, digits, '_', '-')", fault.Clip(name))
		}
		one, err := resource.ParseDocument(collections[name])
		if err != nil {
			return invalid(where, "must be an object")
		}
		canonical(one, "dataCollectionMode", "dataId", "clientId", "samplingRate")
		if _, err := word(one, "dataCollectionMode", where+".dataCollectionMode", access); err != nil {
			return err
		}
		one.Default("dataCollectionMode", "Enabled")
		for _, field := range []string{"dataId", "clientId"} {
			if err := text(one, field, where+"."+field); err != nil {
				return err
			}
		}
		if err := share(one, where+".samplingRate"); err != nil {
			return err
		}
		if d["samplingRate"] == nil && one["samplingRate"] == nil {
			one.Set("samplingRate", 1.0)
		}
		collections[name] = one.Raw()
	}
	d["collections"] = collections.Raw()
	logging, err := resource.ParseDocument(d["requestLogging"])
	if err != nil {
		return invalid(at+".requestLogging", "must be an object")
	}
	canonical(logging, "captureHeaders")
	var headers []string
	if raw, ok := logging["captureHeaders"]; ok && json.Unmarshal(raw, &headers) != nil {
		return invalid(at+".requestLogging.captureHeaders", "must be a list of names of headers")
	}
	if len(logging) > 0 {
		d["requestLogging"] = logging.Raw()
	}
	p[at] = d.Raw()
	return nil
}

var collectionName = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,254}$`)

// olderCollector turns the older shape, {"enabled": true, "samplingStrategy":
// {"rate"}}, into the collections "request" and "response".
func olderCollector(d, collections resource.Document, enabled json.RawMessage) error {
	var on any
	_ = json.Unmarshal(enabled, &on)
	mode := "Disabled"
	if on == true || strings.EqualFold(fmt.Sprint(on), "true") {
		mode = "Enabled"
	}
	for _, name := range []string{"request", "response"} {
		collections.Set(name, map[string]string{"dataCollectionMode": mode})
	}
	strategy := d.Object("samplingStrategy")
	canonical(strategy, "rate")
	if raw, ok := strategy["rate"]; ok && d["samplingRate"] == nil {
		d["samplingRate"] = raw
	}
	delete(d, "enabled")
	delete(d, "samplingStrategy")
	return share(d, "dataCollector.samplingStrategy.rate")
}

// share checks a share of requests, from 0 to 1.
func share(d resource.Document, at string) error {
	var rate float64
	raw, ok := d["samplingRate"]
	if ok && (json.Unmarshal(raw, &rate) != nil || rate < 0 || rate > 1) {
		return invalid(at, "is %s; it must be a number from 0 to 1", fault.Clip(string(raw)))
	}
	return nil
}

var quantity = pattern.New(`^(\d+(?:\.\d+)?)(m|[kKMGTPE]i?|)$`)

// requirements checks what the containers of a Kubernetes deployment ask for. The
// SDK cannot read one that asks for nothing, but one with an empty object.
func requirements(p resource.Document, kind string) error {
	const at = "containerResourceRequirements"
	if _, ok := p[at]; !ok {
		if kind == "Kubernetes" {
			p.Set(at, map[string]any{})
		}
		return nil
	}
	d, err := object(p, at, "containerResourceLimits", "containerResourceRequests")
	if err != nil {
		return err
	}
	amounts := map[string]map[string]float64{}
	for _, side := range []string{"containerResourceLimits", "containerResourceRequests"} {
		amounts[side] = map[string]float64{}
		if _, ok := d[side]; !ok {
			continue
		}
		given, err := resource.ParseDocument(d[side])
		if err != nil {
			return invalid(at+"."+side, "must be an object")
		}
		canonical(given, "cpu", "memory", "gpu")
		for _, name := range []string{"cpu", "memory", "gpu"} {
			raw, ok := given[name]
			if !ok {
				continue
			}
			value := strings.Trim(string(raw), `"`)
			m := quantity.FindStringSubmatch(value)
			if m == nil {
				return invalid(at+"."+side+"."+name, "is %s, which is no amount, such as 0.5, 500m or 2Gi", fault.Clip(string(raw)))
			}
			n, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				return invalid(at+"."+side+"."+name, "is %s, which is no amount", fault.Clip(string(raw)))
			}
			amounts[side][name] = n * unit(m[2])
			given.Set(name, value)
		}
		d[side] = given.Raw()
	}
	for name, limit := range amounts["containerResourceLimits"] {
		if asked, ok := amounts["containerResourceRequests"][name]; ok && asked > limit {
			return invalid(at+".containerResourceRequests."+name, "is more than the limit: a container cannot ask for more than it may have").With("BadArgument")
		}
	}
	p[at] = d.Raw()
	return nil
}

// unit is what a suffix of a quantity multiplies by.
func unit(suffix string) float64 {
	if suffix == "" {
		return 1
	}
	if suffix == "m" {
		return 1e-3
	}
	base := 1000.0
	if strings.HasSuffix(suffix, "i") {
		base = 1024
	}
	n := 1.0
	for range strings.Index("KMGTPE", strings.ToUpper(suffix[:1])) + 1 {
		n *= base
	}
	return n
}
