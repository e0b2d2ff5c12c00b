"""Calls about traces, their spans and assessments, for stories.

A trace's id is the client's, made of the story's prefix: both servers have the
same ones.
"""

import hashlib
import json
import time

from compare import Call

V2, V3 = "/api/2.0/mlflow/", "/api/3.0/mlflow/"

TRACE_TAGS = ["color", "kind", "t.x", "mlflow.traceName", "mlflow.user"]
METADATA = ["mlflow.trace.session", "mlflow.trace.user", "m.x", "mlflow.sourceRun", "mlflow.trace.tokenUsage"]
WORDS = ["red", "Red", "reddish", "100%", "r_d", "", "ä", "it's", "42", "0.5", 'say "x"']
STATES = ["OK", "ERROR", "IN_PROGRESS", "STATE_UNSPECIFIED"]
SPANS = ["root", "Lookup", "llm call", "ü"]


def stamp(ms):
    """A time as protobuf's JSON has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"


class Traces:
    """Steps of a story; Story has the rest of what they use."""

    def trace(self):
        return self.pick(self.traces) if self.traces and not self.chance(0.04) else "tr-" + self.prefix.encode().hex().ljust(32, "f")

    def new_trace(self):
        self.count += 1
        return "tr-" + hashlib.md5(f"{self.prefix}{self.count}".encode()).hexdigest()

    def words(self, keys, low=0, high=2):
        return {k: self.pick(WORDS) for k in self.some(keys, low, high)}

    def trace_info(self, trace):
        info = {
            "trace_id": trace,
            "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": self.experiments[0]}},
            "request_time": stamp(self.time()),
            "state": self.pick(STATES[:3]),
        }
        if self.chance(0.8):
            ms = self.pick([0, 1, 1500, 60000, 7])
            info["execution_duration"] = f"{ms // 1000}.{ms % 1000:03d}s"
        if self.chance(0.5):
            info["client_request_id"] = self.pick(["c1", "c2", "it's"])
        if self.chance(0.5):
            info |= {"request_preview": self.pick(["hello", '{"a": 1}', ""]), "response_preview": self.pick(["bye", "ü" * 30])}
        if self.chance(0.7):
            info["tags"] = self.words(TRACE_TAGS, 1, 3)
        if self.chance(0.6):
            info["trace_metadata"] = self.words(METADATA[:3], 1, 2)
            if self.chance(0.3):
                info["trace_metadata"]["mlflow.sourceRun"] = self.run()
            if self.chance(0.3):
                info["trace_metadata"]["mlflow.trace.tokenUsage"] = '{"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}'
        if self.chance(0.15):
            info["assessments"] = [{"assessment_name": "first", "source": {"source_type": "CODE", "source_id": "x"}, "feedback": {"value": True}, "trace_id": trace}]
        return info

    def start_trace(self):
        again = self.traces and self.chance(0.1)
        trace = self.trace() if again else self.new_trace()
        if self.chance(0.15):
            at = self.time()
            body = {
                "experiment_id": self.experiments[0], "timestamp_ms": at,
                "request_metadata": [{"key": k, "value": v} for k, v in self.words(METADATA[:3]).items()],
                "tags": [{"key": k, "value": v} for k, v in self.words(TRACE_TAGS).items()],
            }  # fmt: skip
            s = self.symbol("trace")
            a = yield Call("POST", V2 + "traces", body, binds={s: "trace_info.request_id"})
            if a.ok:
                self.traces.append(s)
                if self.chance(0.7):
                    end = {"timestamp_ms": at + 50, "status": self.pick(["OK", "ERROR"]), "tags": [{"key": "ended", "value": "y"}]}
                    yield Call("PATCH", V2 + "traces/" + s, {"request_id": s} | end)
            return
        a = yield Call("POST", V3 + "traces", {"trace": {"trace_info": self.trace_info(trace)}})
        if a.ok and not again:
            self.traces.append(trace)

    def attribute(self, key, value):
        kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
        return {"key": key, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}

    def log_spans(self):
        """Spans of one trace, as OTLP's JSON has them."""
        new = not self.traces or self.chance(0.4)
        trace = self.new_trace() if new else self.trace()
        if not trace.startswith("tr-"):
            return
        spans, parent, at = [], None, self.time() * 1_000_000
        for n in range(self.random.randint(1, 3)):
            self.count += 1
            took = self.pick([0, 1_000_000, 1_500_000, 2_000_000_000])
            span = {
                "traceId": trace[3:], "spanId": f"{self.count:016x}", "name": self.pick(SPANS), "kind": 1,
                "startTimeUnixNano": str(at), "endTimeUnixNano": str(at + took), "attributes": [], "status": self.pick([{}, {"code": 1}, {"code": 2, "message": "bad"}]),
            }  # fmt: skip
            if parent:
                span["parentSpanId"] = parent
            if self.chance(0.6):
                span["attributes"].append(self.attribute("mlflow.spanType", self.pick(["LLM", "TOOL", "CHAIN"])))
            if self.chance(0.6):
                span["attributes"].append(self.attribute("k", self.pick([1, 2.5, True, "v", '"v"', "it's"])))
            if self.chance(0.4):
                span["attributes"] += [self.attribute("mlflow.spanInputs", self.pick(['{"x": 1}', '"hello"', "text"])), self.attribute("mlflow.spanOutputs", "[1, 2]")]
            if self.chance(0.2):
                span["attributes"].append({"key": "deep", "value": {"kvlistValue": {"values": [self.attribute("a", 1)]}}})
                span["attributes"].append({"key": "many", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "x"}]}}})
            if self.chance(0.2):
                span["events"] = [{"name": "exception", "timeUnixNano": str(at + 5), "attributes": [self.attribute("exception.message", "oops")]}]
            if self.chance(0.2):
                span["attributes"].append(self.attribute("mlflow.chat.tokenUsage", '{"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}'))
            parent = span["spanId"]
            at += 1000
            spans.append(span)
        if self.chance(0.2):
            self.random.shuffle(spans)
        body = {"resourceSpans": [{"scopeSpans": [{"scope": {"name": "s", "version": "1"}, "spans": spans}]}]}
        if self.chance(0.3):
            body["resourceSpans"][0]["resource"] = {"attributes": [self.attribute("service.name", "shop")]}
        headers = {"Content-Type": "application/json", "x-mlflow-experiment-id": self.experiments[0]}
        if self.chance(0.2):
            headers["x-mlflow-run-id"] = self.run()
        a = yield Call("POST", "/v1/traces", body, headers=headers)
        if a.ok and new:
            self.traces.append(trace)
        if self.chance(0.6):
            yield from self.get_trace(trace)

    def get_trace(self, trace=None):
        trace = trace or self.trace()
        yield self.pick([
            lambda: Call("GET", V3 + "traces/get", query=[("trace_id", trace)] + ([("allow_partial", "true")] if self.chance(0.5) else [])),
            lambda: Call("GET", V3 + "traces/get", query=[("trace_id", trace), ("allow_partial", "true")]),
            lambda: Call("GET", V3 + "traces/" + trace),
            lambda: Call("GET", V3 + "traces/batchGet", query=[("trace_ids", t) for t in self.some(self.traces, 1, 3)] + [("trace_ids", "tr-nope")]),
            lambda: Call("POST", V3 + "traces/batchGetInfos", {"trace_ids": self.some(self.traces, 1, 3) + ["tr-nope"]}),
            lambda: Call("GET", V2 + f"traces/{trace}/info"),
        ])()  # fmt: skip

    def trace_tags(self):
        trace, version = self.trace(), self.pick([V2, V3])
        key = self.pick(TRACE_TAGS + ["k" * 251, "mlflow.trace.spansLocation"] if self.chance(0.2) else TRACE_TAGS)
        if self.chance(0.7):
            value = self.pick(WORDS) if self.chance(0.95) else "v" * 5000
            yield Call("PATCH", f"{version}traces/{trace}/tags", {"key": key, "value": value})
        else:
            yield Call("DELETE", f"{version}traces/{trace}/tags", {"key": key})
        yield Call("GET", V3 + "traces/" + trace)

    def assess(self):
        trace = self.trace()
        s = self.symbol("assessment")
        kind = self.pick(["feedback", "feedback", "expectation"])
        value = self.pick([True, 0.75, 3, "good", {"a": 1}, [1, "x"], None]) if self.chance(0.8) else self.pick([False, 0, "", "it's"])
        a = {"assessment_name": self.pick(["good", "want", "Good", "a b"]), "source": {"source_type": self.pick(["HUMAN", "LLM_JUDGE", "CODE"]), "source_id": "ann"}, kind: {"value": value}}
        if kind == "feedback" and self.chance(0.1):
            a[kind] = {"error": {"error_code": "E", "error_message": "m", "stack_trace": "s"}}
        if kind == "expectation" and isinstance(value, (dict, list)):
            a[kind] = {"serialized_value": {"serialization_format": "JSON_FORMAT", "value": json.dumps(value)}}
        if self.chance(0.4):
            a["rationale"] = self.pick(["because", ""])
        if self.chance(0.4):
            a["metadata"] = {"m": "v"}
        if self.chance(0.3):
            a["span_id"] = "00000000000000aa"
        if self.assessments and self.chance(0.2):
            trace, a["overrides"] = self.pick(self.assessments)
        if self.chance(0.2):
            a["create_time"] = a["last_update_time"] = stamp(self.time())
        got = yield Call("POST", f"{V3}traces/{trace}/assessments", {"assessment": a}, binds={s: "assessment.assessment_id"})
        if got.ok:
            self.assessments.append((trace, s))

    def assessment_calls(self):
        trace, a = self.pick(self.assessments) if self.assessments and not self.chance(0.05) else (self.trace(), "a-" + "0" * 32)
        path = f"{V3}traces/{trace}/assessments/{a}"
        change = {"assessment_id": a, "trace_id": trace}
        masks = {"assessment_name": "renamed", "rationale": "since", "metadata": {"n": "w"}, "feedback": {"value": self.pick([0.25, "new", False])}, "expectation": {"value": "that"}, "valid": False}
        for k in self.some(list(masks), 1, 2):
            change[k] = masks[k]
        mask = ",".join(k for k in change if k in masks)
        yield self.pick([
            lambda: Call("GET", path),
            lambda: Call("PATCH", path, {"assessment": change, "update_mask": mask}),
            lambda: Call("PATCH", path, {"assessment": change, "update_mask": mask}),
            lambda: Call("DELETE", path) if self.chance(0.5) else Call("GET", path),
        ])()  # fmt: skip
        if self.chance(0.6):
            yield Call("GET", path)
        if self.chance(0.5):
            yield Call("GET", V3 + "traces/" + trace)

    def link(self):
        traces = self.some(self.traces, 1, 3)
        if self.chance(0.6):
            yield Call("POST", V2 + "traces/link-to-run", {"trace_ids": traces, "run_id": self.run()})
        else:
            versions = [{"name": self.pick(["p1", "p2"]), "version": self.pick(["1", "2"])} for _ in range(self.random.randint(1, 2))]
            yield Call("POST", V2 + "traces/link-prompts", {"trace_id": self.trace(), "prompt_versions": versions})
        if traces:
            yield Call("GET", V3 + "traces/" + traces[0])

    def delete_traces(self):
        if not self.chance(0.5):
            return
        body = {"experiment_id": self.experiments[0]}
        how = self.pick(["ids", "ids", "time", "none", "both"])
        if how in ("ids", "both"):
            body["request_ids"] = self.some(self.traces, 1, 2) + ["tr-nope"]
        if how in ("time", "both"):
            body |= {"max_timestamp_millis": self.clock - self.random.randint(0, 3000), "max_traces": self.pick([1, 2, 100])}
        yield Call("POST", self.pick([V2, V3]) + "traces/delete-traces", body)

    # Search.

    def trace_clause(self):
        if self.chance(0.07):
            return self.pick(["nope = 'x'", "nope.x = 'y'", "trace.status > 'x'", "execution_time = 'x'", "timestamp_ms LIKE '1'", "tags.color > 'x'", "tags.color = red", "span.nope = 'x'", "span.name > 'x'", "span.content = 'x'",
                              "feedback.good > 'x'", "feedback.good = 3", "status = 'OK", "name IN ()", "trace.text = 'x'", "attributes.nope = 'x'", "metadata.m = 1", "x", "status IN 'OK'", "timestamp_ms IN (1)", "name IN ('root')",
                              "span.attributes.k > 1", "issue.id > 'x'", "tags.color IN ('red')", "execution_time IS NULL", "status = 'OK' OR status = 'ERROR'"])  # fmt: skip
        op = self.pick(["=", "!=", "LIKE", "ILIKE", "RLIKE"])
        word = {"=": self.pick(["'red'", "'Red'", "'42'", "'v'"]), "!=": "'red'", "LIKE": self.pick(["'r%'", "'%ed'", "'r_d'"]), "ILIKE": "'RED%'", "RLIKE": self.pick(["'^r'", "'[Rr]ed$'", "'d'"])}[op]
        null = self.pick(["IS NULL", "IS NOT NULL"])
        number = f"{self.pick(['=', '!=', '>', '>=', '<', '<='])} {self.pick(['0', '1', '7', '1500'])}"
        return self.pick([
            lambda: f"{self.pick(['tag', 'tags'])}.{self.pick(['color', 'kind', '`t.x`'])} {op} {word}",
            lambda: f"tags.color {null}",
            lambda: f"{self.pick(['metadata', 'request_metadata'])}.{self.pick(['`m.x`', '`mlflow.trace.session`', '`mlflow.trace.user`'])} {op} {word}",
            lambda: f"metadata.`m.x` {null}",
            lambda: f"{self.pick(['', 'trace.', 'attributes.', 'attribute.'])}status {self.pick(['=', '!='])} '{self.pick(STATES)}'",
            lambda: f"status IN ('OK', '{self.pick(STATES)}')",
            lambda: f"{self.pick(['timestamp_ms', 'timestamp', 'trace.timestamp_ms', 'end_time', 'end_time_ms'])} {self.pick(['>', '<', '>=', '<=', '=', '!='])} {self.clock - self.random.randint(0, 2500)}",
            lambda: f"{self.pick(['execution_time', 'execution_time_ms', 'trace.execution_time_ms'])} {number}",
            lambda: f"{self.pick(['name', 'trace.name', 'attributes.name'])} {op} {self.pick([word, {'=': chr(39) + 'root' + chr(39)}.get(op, word)])}",
            lambda: f"{self.pick(['request_id', 'trace.request_id'])} {self.pick(['=', '!='])} '{self.trace()}'",
            lambda: f"request_id {self.pick(['IN', 'NOT IN'])} ('{self.trace()}', '{self.trace()}')",
            lambda: f"client_request_id {self.pick(['=', '!=', 'LIKE'])} {self.pick([chr(39) + 'c1' + chr(39), chr(39) + 'c%' + chr(39)])}",
            lambda: f"client_request_id IN ('c1')",
            lambda: f"{self.pick(['run_id', 'trace.run_id', 'attributes.run_id'])} = '{self.run()}'",
            lambda: f"run_id IN ('{self.run()}', 'x')",
            lambda: f"span.name {op} {self.pick([word, chr(39) + 'root' + chr(39) if op == '=' else word])}",
            lambda: f"span.type {self.pick(['=', '!=', 'LIKE'])} {self.pick([chr(39) + 'LLM' + chr(39), chr(39) + 'TOOL' + chr(39), chr(39) + 'UNKNOWN' + chr(39)])}",
            lambda: f"span.type {self.pick(['IN', 'NOT IN'])} ('LLM', 'CHAIN')",
            lambda: f"span.status {self.pick(['=', '!='])} '{self.pick(['OK', 'ERROR', 'UNSET'])}'",
            lambda: f"span.attributes.k {self.pick(['LIKE', 'ILIKE'])} {self.pick([chr(39) + '%v%' + chr(39), chr(39) + '2%' + chr(39)])}",
            lambda: f"span.content {self.pick(['LIKE', 'ILIKE'])} {self.pick([chr(39) + '%oops%' + chr(39), chr(39) + '%LOOKUP%' + chr(39), chr(39) + '%hello%' + chr(39)])}",
            lambda: f"trace.text {self.pick(['LIKE', 'ILIKE'])} '%lookup%'",
            lambda: f"feedback.{self.pick(['good', '`a b`', 'Good'])} {self.pick(['> 0.5', '< 1', '>= 0.75', '<= 3', null, '= ' + chr(39) + 'good' + chr(39), '= ' + chr(39) + 'true' + chr(39), 'LIKE ' + chr(39) + '%goo%' + chr(39), '!= ' + chr(39) + 'good' + chr(39)])}",
            lambda: f"expectation.{self.pick(['want', 'good'])} {self.pick(['> 0.5', null, '= ' + chr(39) + 'good' + chr(39), 'ILIKE ' + chr(39) + '%GOOD%' + chr(39)])}",
            lambda: f"prompt = '{self.pick(['p1/1', 'p2/2', 'p1'])}'",
        ])()  # fmt: skip

    def locations(self):
        return [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": e}} for e in (self.experiments if self.chance(0.9) else ["999999999"])]

    def search_traces(self):
        body = {"locations": self.locations()}
        if self.chance(0.8):
            body["filter"] = self.joined([self.trace_clause() for _ in range(self.random.randint(1, 2))])
        if self.chance(0.5):
            body["order_by"] = self.orders(
                ["timestamp_ms", "timestamp", "execution_time", "status", "request_id", "name", "attributes.timestamp_ms", "trace.status", "tags.color", "metadata.`m.x`"],
                ["nope", "span.name", "client_request_id", ""],
            )  # fmt: skip
        if self.chance(0.7):
            body["max_results"] = self.pick([1, 2, 5, 500] + ([0, -1, 501] if self.chance(0.2) else []))
        yield from self.pages("POST", V3 + "traces/search", body)

    def correlate(self):
        body = {"experiment_ids": self.experiments, "filter_string1": self.trace_clause(), "filter_string2": self.trace_clause()}
        if self.chance(0.3):
            body["base_filter"] = self.trace_clause()
        yield Call("POST", V3 + "traces/calculate-filter-correlation", body)

    def trace_metrics(self):
        view = self.pick(["TRACES", "TRACES", "SPANS", "ASSESSMENTS"])
        metric, dimensions = {
            "TRACES": (["trace_count", "session_count", "latency", "input_tokens", "output_tokens", "total_tokens"], ["trace_name", "trace_status"]),
            "SPANS": (["span_count", "latency"], ["span_name", "span_type", "span_status"]),
            "ASSESSMENTS": (["assessment_count", "assessment_value"], ["assessment_name", "assessment_value"]),
        }[view]
        kind = self.pick(["COUNT", "SUM", "AVG", "MIN", "MAX", "PERCENTILE"])
        body = {"experiment_ids": self.experiments[:1], "view_type": view, "metric_name": self.pick(metric), "aggregations": [{"aggregation_type": kind}]}
        if body["metric_name"].endswith("_count") and self.chance(0.8):
            body["aggregations"] = [{"aggregation_type": "COUNT"}]
        elif kind == "PERCENTILE" and self.chance(0.9):
            body["aggregations"][0]["percentile_value"] = self.pick([50, 99, 0, 100])
        if self.chance(0.5):
            body["dimensions"] = self.some(dimensions, 1, 2)
        if self.chance(0.3):
            body |= {"time_interval_seconds": self.pick([1, 60, 3600]), "start_time_ms": 1_700_000_000_000, "end_time_ms": self.clock + 1}
        if self.chance(0.2):
            body["filters"] = [self.pick(["trace.status = 'OK'", "trace.tag.color = 'red'", "span.name = 'root'", "assessment.name = 'good'", "nope"])]
        if self.chance(0.2):
            body["max_results"] = self.pick([1, 2, 1000])
        yield Call("POST", V3 + "traces/metrics", body)

    def bad_trace(self):
        trace = self.trace()
        headers = {"Content-Type": "application/json", "x-mlflow-experiment-id": self.experiments[0]}
        yield self.pick([
            lambda: Call("POST", "/v1/traces", {}, headers=headers),
            lambda: Call("POST", "/v1/traces", {"resourceSpans": []}, headers=headers),
            lambda: Call("POST", "/v1/traces", {"resourceSpans": [{}]}, headers=headers | {"x-mlflow-experiment-id": "999999999"}),
            lambda: Call("POST", "/v1/traces", {"resourceSpans": []}, headers={"Content-Type": "application/json"}),
            lambda: Call("POST", "/v1/traces", raw=b"{not", headers=headers),
            lambda: Call("POST", "/v1/traces", raw=b"\x0a\xff\xff", headers=headers | {"Content-Type": "application/x-protobuf"}),
            lambda: Call("POST", "/v1/traces", raw=b"x", headers=headers | {"Content-Type": "text/plain"}),
            lambda: Call("POST", "/v1/traces", raw=b"x", headers=headers | {"Content-Encoding": self.pick(["gzip", "br", "deflate"])}),
            lambda: Call("POST", V3 + "traces", {}),
            lambda: Call("POST", V3 + "traces", {"trace": {}}),
            lambda: Call("POST", V3 + "traces", {"trace": {"trace_info": self.trace_info(self.new_trace()) | {"trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "999999999"}}}}}),
            lambda: Call("POST", V3 + "traces/search", {}),
            lambda: Call("POST", V3 + "traces/search", {"locations": []}),
            lambda: Call("POST", V3 + "traces/search", {"locations": self.locations(), "page_token": "!!"}),
            lambda: Call("GET", V3 + "traces/get"),
            lambda: Call("GET", V3 + "traces/batchGet"),
            lambda: Call("POST", V3 + "traces/batchGetInfos", {}),
            lambda: Call("PATCH", f"{V3}traces/{trace}/tags", {"value": "x"}),
            lambda: Call("POST", f"{V3}traces/{trace}/assessments", {}),
            lambda: Call("POST", f"{V3}traces/{trace}/assessments", {"assessment": {"assessment_name": "x"}}),
            lambda: Call("POST", f"{V3}traces/{trace}/assessments", {"assessment": {"feedback": {"value": 1}, "source": {"source_type": "NOPE"}}}),
            lambda: Call("PATCH", f"{V3}traces/{trace}/assessments/a-x", {"assessment": {"rationale": "x"}}),
            lambda: Call("POST", V2 + "traces/link-to-run", {"trace_ids": ["tr-x"] * 101, "run_id": self.run()}),
            lambda: Call("POST", V2 + "traces/link-to-run", {"trace_ids": [trace]}),
            lambda: Call("POST", V2 + "traces/link-prompts", {"trace_id": trace}),
            lambda: Call("POST", V3 + "traces/delete-traces", {}),
            lambda: Call("POST", V3 + "traces/metrics", {"experiment_ids": self.experiments, "view_type": "TRACES", "metric_name": self.pick(["nope", "span_count"]), "aggregations": [{"aggregation_type": "COUNT"}]}),
            lambda: Call("POST", V3 + "traces/calculate-filter-correlation", {"experiment_ids": self.experiments, "filter_string1": "status = 'OK'"}),
        ])()  # fmt: skip
