"""Random sequences of calls, each made of a seed and nothing else.

A story is a generator: it yields calls and is sent MLflow's answers. It looks
at their status alone, so that it takes the same way each time. All that it
makes carries its own prefix, and its searches are kept to that.
"""

import base64
import os
import random

from compare import Call
from evaluation import Evaluation
from traces import Traces
from workspaces import inside

API = "/api/2.0/mlflow/"
PROXY = "/api/2.0/mlflow-artifacts/artifacts"

METRICS = ["loss", "acc", "val/acc", "a b", "m.x"]
PARAMS = ["lr", "p/q", "depth", "opt im"]
TAGS = ["color", "kind", "mlflow.note.content", "mlflow.parentRunId", "mlflow.user", "t.x"]
VALUES = ["red", "Red", "reddish", "100%", "r_d", "", "ä", "it's", "42", "0.5", 'say "x"', "x" * 60]
NUMBERS = [0, 1, -1, 0.5, 0.1, 1e-9, 1e300, -2.5, 3, 7.25, 100, "NaN", "Infinity", "-Infinity"]
STATUSES = ["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
VIEWS = ["ACTIVE_ONLY", "DELETED_ONLY", "ALL"]
STAGES = ["None", "Staging", "Production", "Archived", "staging", "PRODUCTION", "Nope"]
LONG = "k" * 251

# What a story is about; one that comes twice is told twice as often.
# LAPIS_THEMES="traces search" tells of these alone.
THEMES = os.environ.get("LAPIS_THEMES", "").split() or [
    "tracking", "tracking", "search", "search", "history", "models", "registry", "registry", "artifacts",
    "traces", "traces", "evaluation", "bad", "all",
]  # fmt: skip


def story(seed, mark="", workspaces=False):
    """The story of a seed, in a workspace of its own or where there are none.
    What it makes is named after the seed and mark."""
    telling = Story(seed, mark, workspaces).tell()
    return inside(telling, seed, mark) if workspaces else telling


class Story(Traces, Evaluation):
    def __init__(self, seed, mark, workspaces):
        self.workspaces = workspaces
        self.random = random.Random(seed)
        self.prefix = f"d{seed:06d}{mark}"
        self.experiments, self.runs, self.models = [], [], []
        self.registered, self.versions = [], []  # names; (name, version)
        self.files = []
        self.traces, self.assessments = [], []  # ids; (trace, id)
        self.datasets = []
        self.clock = 1_700_000_000_000
        self.count = 0

    # Chance.

    def pick(self, items):
        return self.random.choice(items)

    def chance(self, p):
        return self.random.random() < p

    def some(self, items, low, high):
        return self.random.sample(items, min(len(items), self.random.randint(low, high)))

    def symbol(self, kind):
        self.count += 1
        return f"⟨{kind}{self.count}⟩"

    def name(self, kind):
        self.count += 1
        return f"{self.prefix}-{kind}{self.count}" + self.pick(["", "", " x", "/y", "ü"] if kind == "exp" else ["", "", " x", "ü"])

    def time(self):
        # Distinct, so that no order hangs on ids.
        self.clock += self.random.randint(1, 1000)
        return self.clock

    def run(self):
        return self.pick(self.runs) if self.runs and not self.chance(0.03) else self.pick(["f" * 32, "nope"])

    def experiment(self):
        return self.pick(self.experiments) if self.experiments and not self.chance(0.03) else self.pick(["999999999", "abc"])

    def model(self):
        return self.pick(self.models) if self.models and not self.chance(0.03) else "m-" + "f" * 32

    def tags(self, low=0, high=3):
        return [{"key": k, "value": self.pick(VALUES)} for k in self.some(TAGS, low, high)]

    def metric(self):
        m = {"key": self.pick(METRICS), "value": self.pick(NUMBERS), "timestamp": self.random.randint(1, 9)}
        if self.chance(0.9):
            m["step"] = self.random.randint(-2, 12)
        return m

    # The way.

    def tell(self):
        r = self.random
        yield from self.create_experiment()
        if self.chance(0.4):
            yield from self.create_experiment()
        for _ in range(r.randint(2, 4)):
            yield from self.create_run()
        theme = self.pick(THEMES)
        steps = {
            "tracking": [self.log, self.log, self.batch, self.batch, self.tag, self.get_run, self.lifecycle, self.update_run, self.create_run, self.experiment_calls, self.inputs, self.search_runs],
            "search": [self.batch, self.tag, self.update_run, self.search_runs, self.search_runs, self.search_runs, self.search_runs, self.search_experiments, self.search_experiments, self.lifecycle, self.experiment_calls],
            "history": [self.batch, self.batch, self.points, self.history, self.history, self.interval, self.interval],
            "models": [self.create_model, self.model_calls, self.model_calls, self.model_metric, self.search_models, self.search_models, self.outputs, self.get_run],
            "registry": [self.create_registered, self.create_version, self.create_version, self.registered_calls, self.registered_calls, self.version_calls, self.version_calls, self.search_registered, self.search_versions, self.alias, self.stage],
            "artifacts": [self.put, self.put, self.list, self.list, self.get_file, self.bad_path],
            "traces": [self.start_trace, self.start_trace, self.log_spans, self.log_spans, self.get_trace, self.trace_tags, self.assess, self.assess, self.assessment_calls, self.link, self.delete_traces, self.search_traces, self.search_traces, self.search_traces, self.correlate, self.trace_metrics, self.bad_trace],
            "evaluation": [self.create_dataset, self.records, self.records, self.dataset_calls, self.dataset_calls, self.search_datasets, self.search_datasets, self.scorers, self.scorers, self.scorers],
            "bad": [self.bad, self.bad, self.bad, self.bad, self.limits],
        }  # fmt: skip
        steps["all"] = [s for t in sorted({*THEMES} & {*steps}) for s in steps[t]]
        if theme in ("models", "registry", "all"):
            yield from self.create_model()
        if theme in ("registry", "all"):
            for _ in range(2):
                yield from self.create_registered()
            yield from self.create_version()
        if theme == "bad":
            yield from self.scrap()
        elif theme in ("search", "tracking"):
            for _ in range(3):
                yield from self.batch()
        for _ in range(r.randint(10, 18)):
            step = self.pick(steps[theme])
            if step == self.bad and not hasattr(self, "scrapped"):
                yield from self.scrap()
            yield from step()
        for run in self.runs[:3]:
            yield Call("GET", API + "runs/get", query=[("run_id", run)])

    # Experiments.

    def create_experiment(self):
        s, name = self.symbol("exp"), self.name("exp")
        body = {"name": name}
        if self.chance(0.4):
            body["tags"] = self.tags()
        if self.chance(0.15) and not (self.workspaces and not self.experiments):
            body["artifact_location"] = self.pick(["s3://bucket/x", "mlflow-artifacts:/elsewhere", "gs://b/c"])
        a = yield Call("POST", API + "experiments/create", body, binds={s: "experiment_id"})
        if a.ok:
            self.experiments.append(s)
        if self.chance(0.5):
            yield Call("GET", API + "experiments/get-by-name", query=[("experiment_name", name)])
        if self.chance(0.1):
            yield Call("POST", API + "experiments/create", {"name": name})

    def experiment_calls(self):
        e = self.experiment()
        what = self.pick(["get", "tag", "tag", "untag", "delete", "restore", "rename", "named"])
        if what == "get":
            yield Call("GET", API + "experiments/get", query=[("experiment_id", e)])
        elif what == "tag":
            yield Call("POST", API + "experiments/set-experiment-tag", {"experiment_id": e, "key": self.pick(TAGS), "value": self.pick(VALUES)})
        elif what == "untag":
            yield Call("POST", API + "experiments/delete-experiment-tag", {"experiment_id": e, "key": self.pick(TAGS)})
        elif what in ("delete", "restore"):
            yield Call("POST", API + "experiments/" + what, {"experiment_id": e})
            yield Call("GET", API + "experiments/get", query=[("experiment_id", e)])
            yield Call("POST", API + "runs/search", {"experiment_ids": [e], "run_view_type": "ALL"})
        elif what == "rename":
            yield Call("POST", API + "experiments/update", {"experiment_id": e, "new_name": self.name("exp")})
        else:
            yield Call("GET", API + "experiments/get-by-name", query=[("experiment_name", self.prefix + self.pick(["-exp1", "-exp2", "-nope"]))])

    def search_experiments(self):
        clauses = [f"name LIKE '{self.prefix}%'"] + [self.clause("experiments") for _ in range(self.random.randint(0, 2))]
        body = {"filter": self.joined(clauses), "max_results": self.pick([1, 2, 100, 100])}
        if self.chance(0.5):
            body["view_type"] = self.pick(VIEWS)
        if self.chance(0.6):
            body["order_by"] = self.orders(["name", "experiment_id", "creation_time", "last_update_time", "attribute.name"], ["tags.x", "nope"])
        yield from self.pages("POST", API + "experiments/search", body)

    # Runs.

    def create_run(self):
        s = self.symbol("run")
        # Named, as searches are in the order of names.
        body = {"experiment_id": self.experiment(), "start_time": self.time(), "run_name": self.pick(["first", "second", "my run", "Ünal"])}
        if self.chance(0.5):
            body["user_id"] = self.pick(["ann", "bob", ""])
        if self.chance(0.5):
            body["tags"] = self.tags()
            if self.chance(0.2):
                body["experiment_id"] = self.experiments[0]
                body["tags"].append({"key": "mlflow.runName", "value": self.pick(["first", "other"])})
        a = yield Call("POST", API + "runs/create", body, binds={s: "run.info.run_id"})
        if a.ok:
            self.runs.append(s)

    def get_run(self):
        yield Call("GET", API + "runs/get", query=[(self.pick(["run_id", "run_id", "run_uuid"]), self.run())])

    def update_run(self):
        body = {"run_id": self.run()}
        if self.chance(0.6):
            body["status"] = self.pick(STATUSES)
        if self.chance(0.5):
            body["end_time"] = self.time()
        if self.chance(0.4):
            body["run_name"] = self.pick(["renamed", "", "again"])
        yield Call("POST", API + "runs/update", body)

    def log(self):
        run = self.run()
        if self.chance(0.5):
            yield Call("POST", API + "runs/log-metric", {"run_id": run, **self.metric()})
        else:
            yield Call("POST", API + "runs/log-parameter", {"run_id": run, "key": self.pick(PARAMS), "value": self.pick(VALUES)})

    def batch(self):
        body = {"run_id": self.run()}
        if self.chance(0.8):
            body["metrics"] = [self.metric() for _ in range(self.random.randint(1, 8))]
        if self.chance(0.5):
            body["params"] = [{"key": k, "value": self.pick(VALUES[:4])} for k in self.some(PARAMS, 1, 3)]
            if self.chance(0.1):
                body["params"].append({"key": self.pick(PARAMS), "value": "red"})
        if self.chance(0.5):
            body["tags"] = self.tags(1, 3)
            if self.chance(0.15):
                body["tags"].append({"key": "mlflow.runName", "value": "by tag"})
        yield Call("POST", API + "runs/log-batch", body)

    def tag(self):
        run = self.run()
        if self.chance(0.7):
            key = self.pick(TAGS + ["mlflow.runName"])
            yield Call("POST", API + "runs/set-tag", {"run_id": run, "key": key, "value": self.pick(VALUES)})
        else:
            yield Call("POST", API + "runs/delete-tag", {"run_id": run, "key": self.pick(TAGS)})

    def lifecycle(self):
        run = self.run()
        yield Call("POST", API + "runs/" + self.pick(["delete", "restore"]), {"run_id": run})
        yield from self.pick([self.get_run, self.log, self.batch, self.tag, self.update_run])()

    def inputs(self):
        datasets = []
        for _ in range(self.random.randint(1, 2)):
            d = {"name": self.pick(["iris", "wine"]), "digest": self.pick(["d1", "d2"]), "source_type": "local", "source": "s"}
            if self.chance(0.3):
                d |= {"schema": "{}", "profile": "p"}
            datasets.append({"dataset": d, "tags": [{"key": "mlflow.data.context", "value": self.pick(["train", "eval"])}] if self.chance(0.7) else []})
        run = self.run()
        yield Call("POST", API + "runs/log-inputs", {"run_id": run, "datasets": datasets})
        yield Call("GET", API + "runs/get", query=[("run_id", run)])

    def search_runs(self):
        body = {"experiment_ids": [e for e in self.experiments if self.chance(0.8)]}
        if self.chance(0.03):
            body["experiment_ids"].append("999999999")
        if self.chance(0.8):
            body["filter"] = self.joined([self.clause("runs") for _ in range(self.random.randint(1, 3))])
        if self.chance(0.5):
            body["run_view_type"] = self.pick(VIEWS)
        if self.chance(0.6):
            keys = [f"metrics.{self.key(METRICS)}", f"params.{self.key(PARAMS)}", f"tags.{self.key(TAGS)}",
                    "attributes.start_time", "start_time", "attribute.end_time", "status", "run_name",
                    "attributes.status", "user_id", "created", "`Run Name`", "metrics.nope"]  # fmt: skip
            body["order_by"] = self.orders(keys, ["nope", "metrics", "metric.a.b c", "dataset.name", ""])
        body["max_results"] = self.pick([1, 2, 3, 1000, 50000])
        yield from self.pages("POST", API + "runs/search", body)

    # Filters.

    def key(self, keys):
        k = self.pick(keys)
        if any(not (c.isalnum() or c in "_.") for c in k) or self.chance(0.15):
            k = self.pick(["`{}`", '"{}"']).format(k)
        return k

    def number(self):
        return self.pick(["0", "1", "0.5", "-1", "3", "1e2", "7.25", ".5"] if self.chance(0.3) else ["0", "1", "0.5", "-1", "3"])

    def text(self):
        v = self.pick(VALUES[:10])
        q = '"' if "'" in v or self.chance(0.2) else "'"
        return q + v.replace(q, "") + q

    def like(self):
        return self.pick(["'%'", "'r%'", "'R%'", "'%d'", "'r_d'", "'%100\\%%'", "''", "'%ä%'", "'re%sh'", "'_ed'", "'%.5'"])

    def compare_number(self):
        return f"{self.pick(['=', '!=', '>', '>=', '<', '<='])} {self.number()}"

    def compare_text(self):
        op = self.pick(["=", "!=", "LIKE", "ILIKE", "like", "ilike"])
        return f"{op} {self.like() if 'ike' in op.lower() else self.text()}"

    def several(self, values):
        return f"{self.pick(['IN', 'NOT IN', 'in'])} ({', '.join(repr(v) for v in self.some(values, 1, 2))})"

    def clause(self, target):
        if self.chance(0.06):
            return self.nonsense(target)
        tag = f"{self.pick(['tag', 'tags'])}.{self.key(TAGS)}"
        if target == "runs":
            return self.pick([
                lambda: f"{self.pick(['metric', 'metrics'])}.{self.key(METRICS)} {self.compare_number()}",
                lambda: f"metrics.{self.key(METRICS)} {self.compare_number()}",
                lambda: f"{self.pick(['param', 'params', 'parameter'])}.{self.key(PARAMS)} {self.compare_text()}",
                lambda: f"{tag} {self.compare_text()}",
                lambda: f"{self.pick([tag, 'params.' + self.key(PARAMS)])} IS {self.pick(['', 'NOT '])}NULL",
                lambda: f"{self.pick(['attribute.', 'attributes.', 'run.', 'attr.', ''])}{self.pick(['status', 'run_name', 'user_id'])} "
                        + self.pick([f"= '{self.pick(STATUSES)}'", "= 'first'", "!= 'ann'", "LIKE '%i%'", "ILIKE 'F%'", "= 'ann'"]),
                lambda: f"{self.pick(['start_time', 'attributes.end_time', 'created'])} {self.pick(['>', '<', '>=', '<=', '=', '!='])} {self.clock - self.random.randint(0, 900)}",
                lambda: f"{self.pick(['run_id', 'attributes.run_id'])} " + self.pick([f"= '{self.run()}'", f"!= '{self.run()}'", f"IN ('{self.run()}', '{self.run()}')", f"NOT IN ('{self.run()}')"]),
                lambda: f"{self.pick(['dataset', 'datasets'])}.{self.pick(['name', 'digest', 'context'])} " + self.pick(["= 'iris'", "LIKE 'i%'", "ILIKE '%I%'", "IN ('iris', 'train')", "NOT IN ('d1')", "!= 'wine'", "= 'd1'", "= 'train'"]),
                lambda: f"attributes.artifact_uri {self.pick(['LIKE', '='])} '%artifacts'",
            ])()  # fmt: skip
        if target == "experiments":
            return self.pick([
                lambda: f"{tag} {self.compare_text()}",
                lambda: f"{self.pick(['name', 'attribute.name'])} " + self.pick([f"= '{self.prefix}-exp1'", "!= 'x'", "LIKE '%x'", f"ILIKE '{self.prefix.upper()}%'"]),
                lambda: f"{self.pick(['creation_time', 'last_update_time', 'attribute.creation_time'])} {self.pick(['>', '<', '>=', '<=', '!='])} {self.pick(['0', '1700000000000', '9999999999999'])}",
                lambda: "experiment_id " + self.pick([f"= '{self.experiment()}'", f"IN ('{self.experiment()}')", f"NOT IN ('{self.experiment()}')"]),
            ])()  # fmt: skip
        if target == "models":
            return self.pick([
                lambda: f"metrics.{self.key(METRICS)} {self.compare_number()}",
                lambda: f"params.{self.key(PARAMS)} {self.compare_text()}",
                lambda: f"tags.{self.key(TAGS)} {self.compare_text()}",
                lambda: f"{self.pick(['name', 'attributes.name', 'model_type'])} " + self.pick(["= 'net'", "!= 'net'", "LIKE 'n%'", "ILIKE 'N%'", "IN ('net', 'tree')", "NOT IN ('net')"]),
                lambda: f"{self.pick(['creation_timestamp', 'creation_time', 'last_updated_timestamp'])} {self.pick(['>', '<', '>=', '<=', '!='])} {self.pick(['0', '9999999999999'])}",
                lambda: f"source_run_id = '{self.run()}'",
                lambda: f"model_id {self.pick(['=', '!='])} '{self.model()}'",
            ])()  # fmt: skip
        if target == "registered":
            return self.pick([
                lambda: f"{tag} {self.compare_text()}",
                lambda: "name " + self.pick([f"= '{self.a_registered()}'", f"!= '{self.a_registered()}'", f"ILIKE '{self.prefix.upper()}%'", f"IN ('{self.a_registered()}', 'x')", f"NOT IN ('{self.a_registered()}')"]),
            ])()  # fmt: skip
        return self.pick([
            lambda: f"{tag} {self.compare_text()}",
            lambda: f"name {self.pick(['=', '!='])} '{self.a_registered()}'",
            lambda: f"run_id {self.pick(['=', '!='])} '{self.run()}'",
            lambda: f"run_id IN ('{self.run()}', 'x')",
            lambda: f"version_number {self.pick(['=', '!=', '>', '>=', '<', '<='])} {self.pick(['1', '2', '3'])}",
            lambda: f"source_path {self.pick(['=', '!=', 'LIKE', 'ILIKE'])} 's3://b/{self.pick(['one', '%', 'two'])}'",
        ])()  # fmt: skip

    def nonsense(self, target):
        words = {
            "runs": ["metrics.loss > 'x'", "metrics.loss > abc", "metrics.loss LIKE 1", "params.lr > 'x'", "params.lr = 1", "params.lr = red", "nope = 'x'", "nope.x = 'y'", "attribute.nope = 'x'",
                     "status > 'x'", "status IN ('FINISHED')", "start_time = 'x'", "start_time LIKE '1'", "tags.color IN ('red')", "dataset.nope = 'x'", "dataset.name > 'x'", "dataset.name = iris",
                     "metrics.loss IS NULL", "status IS NULL", "run_id IN ()", "run_id IN (a)", "run_id IN 'x'", "run_id = 1"],
            "experiments": ["name > 'x'", "name IN ('a')", "nope = 'x'", "tags.x > 'a'", "creation_time LIKE '1'", "creation_time = 'x'", "attributes.name = 'x'", "name = x", "experiment_id = 1", "metrics.a > 1", "tag.x = 1", "experiment_id IN (1)"],
            "models": ["params.lr > 'x'", "tags.x > 'y'", "metrics.loss LIKE 'x'"],
            "registered": ["name > 'x'", "tags.x > 'a'", "nope = 'x'", "attribute.nope = 'x'", "name = x", "params.x = 'y'", "creation_timestamp > 1", "version_number = 1", "run_id = 'x'"],
            "versions": ["name > 'x'", "version_number LIKE 1", "version_number = '1'", "run_id LIKE 'x'", "run_id > 'x'", "source_path IN ('x')", "nope = 'x'", "tags.x > 'a'", "name = x", "run_id IN (x)", "run_id IN ()", "creation_timestamp > 1"],
        }[target]  # fmt: skip
        return self.pick(words + ["x", "= 'x'", "a = 'b' OR c = 'd'", "(tags.color = 'red')", "tags.color = 'red", "tags.color == 'red'", "tags.color 'red'", "tags. = 'x'", "'x' = 'x'", "tags.color ="])

    def joined(self, clauses):
        return self.pick([" AND ", " and ", " AND ", "  AND  "]).join(clauses)

    def orders(self, keys, wrong):
        return [
            (self.pick(wrong) if self.chance(0.04) else k) + self.pick(["", " ASC", " DESC", " desc", " UP" if self.chance(0.1) else " asc"])
            for k in self.some(keys, 1, 3)
        ]

    def pages(self, method, path, fields, query=False, most=4):
        """Ask for page after page."""
        for _ in range(most):
            token = self.symbol("page")
            if query:
                pairs = [(k, x) for k, v in fields.items() for x in (v if isinstance(v, list) else [v])]
                a = yield Call(method, path, query=pairs, binds={token: "next_page_token"})
            else:
                a = yield Call(method, path, dict(fields), binds={token: "next_page_token"})
            if not a.ok or not a.body.get("next_page_token"):
                break
            fields = fields | {"page_token": token}
        if self.chance(0.05):
            bad = self.pick(["!!", "abc", base64.b64encode(b"x").decode(), base64.b64encode(b'{"offset": "x"}').decode(), base64.b64encode(b"[1]").decode()])
            fields = fields | {"page_token": bad}
            pairs = [(k, x) for k, v in fields.items() for x in (v if isinstance(v, list) else [v])]
            yield Call(method, path, query=pairs) if query else Call(method, path, fields)

    # History.

    def points(self):
        n = self.random.randint(20, 60)
        metrics = [{"key": "loss", "value": self.random.randint(0, 9), "timestamp": self.random.randint(1, 50), "step": self.random.randint(0, 40)} for _ in range(n)]
        yield Call("POST", API + "runs/log-batch", {"run_id": self.run(), "metrics": metrics})

    def history(self):
        fields = {"run_id": self.run(), "metric_key": self.pick(METRICS + ["nope"])}
        if self.chance(0.6):
            fields["max_results"] = self.pick([1, 5, 20, 1000, 0, -1] if self.chance(0.2) else [5, 20])
        yield from self.pages("GET", API + "metrics/get-history", fields, query=True)
        if self.chance(0.2):
            yield Call("GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk", query=[("run_id", r) for r in self.runs] + [("metric_key", "loss"), ("max_results", "25000")])

    def interval(self):
        query = [("run_ids", r) for r in self.some(self.runs, 1, 3)] + [("metric_key", self.pick(METRICS + ["loss", "loss"]))]
        if self.chance(0.4):
            query += [("start_step", self.random.randint(-3, 10)), ("end_step", self.random.randint(3, 45))]
        if self.chance(0.8):
            query += [("max_results", self.pick([1, 2, 3, 5, 7, 10, 17, 320, 2500] + ([0, -1, 2501] if self.chance(0.2) else [])))]
        yield Call("GET", API + "metrics/get-history-bulk-interval", query=query)

    # Logged models.

    def create_model(self):
        s = self.symbol("model")
        body = {"experiment_id": self.experiment(), "name": self.pick(["net", "tree", "Net"])}
        if self.chance(0.05):
            body |= {"experiment_id": self.experiments[0], "name": self.pick(["bad/name", "a:b"])}
        if self.chance(0.5):
            body["model_type"] = self.pick(["agent", "net", ""])
        if self.chance(0.6):
            body["source_run_id"] = self.run()
        if self.chance(0.5):
            body["params"] = [{"key": k, "value": self.pick(VALUES)} for k in self.some(PARAMS, 1, 3)]
        if self.chance(0.5):
            body["tags"] = self.tags(1, 3)
        a = yield Call("POST", API + "logged-models", body, binds={s: "model.info.model_id"})
        if a.ok:
            self.models.append(s)

    def model_calls(self):
        m = self.model()
        path = API + "logged-models/" + m
        yield self.pick([
            lambda: Call("GET", path),
            lambda: Call("PATCH", path, {"model_id": m, "status": self.pick(["LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED", "LOGGED_MODEL_READY"])}),
            lambda: Call("PATCH", path + "/tags", {"tags": self.tags(1, 3)}),
            lambda: Call("DELETE", path + "/tags/" + self.pick(["color", "kind", "nope"])),
            lambda: Call("POST", path + "/params", {"model_id": m, "params": [{"key": self.pick(PARAMS), "value": "v"}]}),
            lambda: Call("GET", path + "/artifacts/directories"),
            lambda: Call("DELETE", path) if self.chance(0.3) else Call("GET", path),
            lambda: Call("GET", path, query=[("allow_deleted", "true")]),
        ])()  # fmt: skip
        if self.chance(0.4):
            yield Call("GET", path)

    def model_metric(self):
        body = {"run_id": self.run(), "model_id": self.model(), **self.metric()}
        if self.chance(0.4):
            body |= {"dataset_name": self.pick(["iris", "wine"]), "dataset_digest": "d1"}
        yield Call("POST", API + "runs/log-metric", body)
        if self.chance(0.5):
            yield Call("GET", API + "logged-models/" + body["model_id"])

    def outputs(self):
        run = self.run()
        yield Call("POST", API + "runs/outputs", {"run_id": run, "models": [{"model_id": self.model(), "step": self.random.randint(0, 3)}]})
        if self.chance(0.3):
            yield Call("POST", API + "runs/log-inputs", {"run_id": run, "models": [{"model_id": self.model()}]})
        yield Call("GET", API + "runs/get", query=[("run_id", run)])

    def search_models(self):
        body = {"experiment_ids": self.experiments if self.chance(0.95) else []}
        if body["experiment_ids"] and self.chance(0.7):
            body["filter"] = self.joined([self.clause("models") for _ in range(self.random.randint(1, 2))])
        if self.chance(0.5):
            body["order_by"] = [{"field_name": self.pick(["name", "creation_timestamp", "creation_time", "metrics.loss", "params.lr", "nope"]), "ascending": self.chance(0.5)}]
        if self.chance(0.7):
            body["max_results"] = self.pick([1, 2, 50])
        yield from self.pages("POST", API + "logged-models/search", body)

    # The registry.

    def a_registered(self):
        return self.pick(self.registered) if self.registered and not self.chance(0.05) else self.prefix + "-none"

    def a_version(self):
        return self.pick(self.versions) if self.versions and not self.chance(0.05) else (self.a_registered(), self.pick(["7", "abc"]))

    def registry_tags(self):
        return [{"key": k, "value": self.pick(VALUES)} for k in self.some(["color", "kind", "mlflow.note.content", "t.x"], 1, 3)]

    def create_registered(self):
        name = self.name("reg") if self.chance(0.95) else self.pick(["", "a/b", "a:b"])
        body = {"name": name}
        if self.chance(0.4):
            body["tags"] = self.registry_tags()
        if self.chance(0.4):
            body["description"] = self.pick(["what it is", ""])
        a = yield Call("POST", API + "registered-models/create", body)
        if a.ok:
            self.registered.append(name)
        if self.chance(0.1):
            yield Call("POST", API + "registered-models/create", {"name": name})

    def create_version(self):
        name = self.a_registered()
        s = self.symbol("version")
        body = {"name": name, "source": self.pick(["s3://b/one", "s3://b/two", "gs://x/y#z", "dbfs:/m"])}
        how = self.random.random()
        if how < 0.15 and self.runs:
            run = self.pick(self.runs)
            body |= {"source": f"runs:/{run}/model", "run_id": run if self.chance(0.8) else self.run()}
        elif how < 0.3 and self.models:
            model = self.model()
            body |= {"source": f"models:/{model}", "model_id": model if self.chance(0.8) else self.model()}
        elif how < 0.4 and self.versions:
            body["source"] = "models:/{}/{}".format(*self.pick(self.versions))
        elif how < 0.5:
            body["source"] = self.pick(["/etc/passwd", "file:///etc", "http://host/x", "s3://b/../c", "mlflow-artifacts:/1/2", "runs:/nope", "models:/", "", "./x", "ftp://x/y", "abfss://c@a/x"])
        elif self.chance(0.3):
            body["run_id"] = self.run()
        if self.chance(0.4):
            body["tags"] = self.registry_tags()
        if self.chance(0.3):
            body["description"] = "a version"
        if self.chance(0.2):
            body["run_link"] = "https://example.org/run"
        a = yield Call("POST", API + "model-versions/create", body)
        if a.ok:
            self.versions.append((name, a.body["model_version"]["version"]))

    def registered_calls(self):
        n = self.a_registered()
        path = API + "registered-models/"
        what = self.pick(["get", "get", "update", "tag", "tag", "untag", "latest", "rename", "delete"])
        if what == "get":
            yield Call("GET", path + "get", query=[("name", n)])
        elif what == "update":
            yield Call("PATCH", path + "update", {"name": n, "description": self.pick(["new words", ""])})
        elif what == "tag":
            yield Call("POST", path + "set-tag", {"name": n, "key": self.pick(["color", "kind"]), "value": self.pick(VALUES)})
        elif what == "untag":
            yield Call("DELETE", path + "delete-tag", {"name": n, "key": self.pick(["color", "nope"])})
        elif what == "latest":
            body = {"name": n}
            if self.chance(0.5):
                body["stages"] = self.some(STAGES, 1, 2)
            yield Call("POST", path + "get-latest-versions", body)
        elif what == "rename":
            new = self.name("reg") if self.chance(0.8) else self.pick([self.a_registered(), "", "x/y"])
            if n == new:
                return  # MLflow dates all versions anew
            a = yield Call("POST", path + "rename", {"name": n, "new_name": new})
            if a.ok:
                self.registered = [new if x == n else x for x in self.registered]
                self.versions = [(new if x == n else x, v) for x, v in self.versions]
            yield Call("GET", path + "get", query=[("name", new)])
        elif self.chance(0.4):
            a = yield Call("DELETE", path + "delete", {"name": n})
            if a.ok:
                self.registered = [x for x in self.registered if x != n]
                self.versions = [(x, v) for x, v in self.versions if x != n]

    def version_calls(self):
        n, v = self.a_version()
        path = API + "model-versions/"
        what = self.pick(["get", "get", "update", "tag", "untag", "uri", "delete"])
        if what == "get":
            yield Call("GET", path + "get", query=[("name", n), ("version", v)])
        elif what == "update":
            yield Call("PATCH", path + "update", {"name": n, "version": v, "description": self.pick(["said anew", ""])})
        elif what == "tag":
            yield Call("POST", path + "set-tag", {"name": n, "version": v, "key": self.pick(["color", "kind"]), "value": self.pick(VALUES)})
        elif what == "untag":
            yield Call("DELETE", path + "delete-tag", {"name": n, "version": v, "key": self.pick(["color", "nope"])})
        elif what == "uri":
            yield Call("GET", path + "get-download-uri", query=[("name", n), ("version", v)])
        elif self.chance(0.5):
            a = yield Call("DELETE", path + "delete", {"name": n, "version": v})
            if a.ok:
                self.versions.remove((n, v))
            yield Call("GET", path + "get", query=[("name", n), ("version", v)])

    def alias(self):
        n, v = self.a_version()
        path = API + "registered-models/alias"
        a = self.pick(["champion", "Best", "b-2", "latest", "v1", "a b", "LATEST", ""] if self.chance(0.2) else ["champion", "Best"])
        what = self.pick(["set", "set", "get", "delete"])
        if what == "set":
            yield Call("POST", path, {"name": n, "alias": a, "version": v})
            yield Call("GET", API + "registered-models/get", query=[("name", n)])
        elif what == "get":
            yield Call("GET", path, query=[("name", n), ("alias", a)])
        else:
            yield Call("DELETE", path, {"name": n, "alias": a})

    def stage(self):
        n, v = self.a_version()
        stage = self.pick(STAGES if self.chance(0.5) else STAGES[1:3])
        archive = self.chance(0.5) and stage.lower() in ("staging", "production")
        yield Call("POST", API + "model-versions/transition-stage", {"name": n, "version": v, "stage": stage, "archive_existing_versions": archive})
        yield Call("POST", API + "registered-models/get-latest-versions", {"name": n})

    def search_registered(self):
        clauses = [f"name LIKE '{self.prefix}%'"] + [self.clause("registered") for _ in range(self.random.randint(0, 2))]
        fields = {"filter": self.joined(clauses)}
        if self.chance(0.6):
            fields["max_results"] = self.pick([1, 2, 1000] + ([0, 1001, -1] if self.chance(0.2) else []))
        if self.chance(0.5):
            fields["order_by"] = self.orders(["name", "timestamp", "last_updated_timestamp"], ["nope", "creation_timestamp"])[:2]
        yield from self.pages("GET", API + "registered-models/search", fields, query=True)

    def search_versions(self):
        clauses = [f"name LIKE '{self.prefix}%'"] + [self.clause("versions") for _ in range(self.random.randint(0, 2))]
        fields = {"filter": self.joined(clauses)}
        if self.chance(0.6):
            fields["max_results"] = self.pick([1, 2, 1000] + ([0, 200001, -1] if self.chance(0.2) else []))
        if self.chance(0.5):
            fields["order_by"] = self.orders(["name", "version_number", "creation_timestamp", "last_updated_timestamp"], ["nope", "run_id"])[:2]
        yield from self.pages("GET", API + "model-versions/search", fields, query=True)

    # Artefacts.

    def put(self):
        # The address of a run's artefacts, by the experiment's number.
        if not self.experiments or not self.runs:
            return
        path = f"{PROXY}/{self.prefix}/" + self.pick(["a.txt", "sub/b.bin", "sub/deep/c.json", "d e.txt", "ü.txt", "page.html", "a+b.txt"])
        data = self.pick([b"", b"hello", bytes(range(256)) * 40, b"<b>x</b>"])
        a = yield Call("PUT", path, raw=data, headers={"Content-Type": "application/octet-stream"})
        if a.ok:
            self.files.append(path)

    def list(self):
        where = self.pick([self.prefix, self.prefix + "/sub", self.prefix + "/nope", self.prefix + "/a.txt"])
        yield Call("GET", PROXY, query=[("path", where)])
        if self.runs and self.chance(0.4):
            query = [("run_id", self.run())] + ([("path", self.pick(["sub", "a.txt", "nope"]))] if self.chance(0.5) else [])
            yield Call("GET", API + "artifacts/list", query=query)

    def get_file(self):
        path = self.pick(self.files) if self.files and not self.chance(0.1) else f"{PROXY}/{self.prefix}/nope"
        yield Call("GET", path)
        if self.chance(0.4):
            yield Call("GET", path, headers={"Range": self.pick(["bytes=0-3", "bytes=2-", "bytes=-2", "bytes=99999999-"])})
        if self.chance(0.2) and "/sub/" not in path:
            yield Call("DELETE", path)
            yield Call("GET", path)

    def bad_path(self):
        bad = self.pick(["%2e%2e%2fx", "/etc/passwd", "%252e%252e/x", "file:///etc", "C:%5Cx", "a%23b", "..", "../x", "a/../../b"])
        if bad.startswith(".") or "/.." in bad or self.chance(0.5):
            yield Call("GET", PROXY, query=[("path", bad)])
        elif self.chance(0.5) and self.runs:
            yield Call("GET", API + "artifacts/list", query=[("run_id", self.run()), ("path", bad)])
        else:
            yield Call("GET", f"{PROXY}/{self.prefix}/{bad}")

    # Bad input.

    def scrap(self):
        """Make things that only bad calls touch."""
        self.scrapped = True
        yield Call("POST", API + "experiments/create", {"name": f"scrap-{self.prefix}"}, binds={"⟨scrapexp⟩": "experiment_id"})
        yield Call("POST", API + "runs/create", {"experiment_id": "⟨scrapexp⟩", "run_name": "s", "start_time": 1}, binds={"⟨scraprun⟩": "run.info.run_id"})
        yield Call("POST", API + "registered-models/create", {"name": f"scrap-{self.prefix}"})
        yield Call("POST", API + "model-versions/create", {"name": f"scrap-{self.prefix}", "source": "s3://x/y"})
        yield Call("POST", API + "logged-models", {"experiment_id": "⟨scrapexp⟩", "name": "s"}, binds={"⟨scrapmodel⟩": "model.info.model_id"})

    def good(self):
        """A call that would be right."""
        run, exp, reg, model = "⟨scraprun⟩", "⟨scrapexp⟩", f"scrap-{self.prefix}", "⟨scrapmodel⟩"
        self.count += 1
        new = f"scrap-{self.prefix}-{self.count}"
        version = {"name": reg, "version": "1"}
        return self.pick([
            ("POST", "experiments/create", {"name": new, "artifact_location": "s3://x", "tags": [{"key": "a", "value": "b"}]}),
            ("POST", "experiments/search", {"max_results": 1, "filter": f"name = '{reg}'", "order_by": ["name"], "view_type": "ALL"}),
            ("POST", "experiments/set-experiment-tag", {"experiment_id": exp, "key": "k", "value": "v"}),
            ("POST", "experiments/delete-experiment-tag", {"experiment_id": exp, "key": "k"}),
            ("POST", "runs/create", {"experiment_id": exp, "user_id": "u", "run_name": "n", "start_time": 5, "tags": [{"key": "a", "value": "b"}]}),
            ("POST", "runs/update", {"run_id": run, "status": "FINISHED", "end_time": 12, "run_name": "n"}),
            ("POST", "runs/log-metric", {"run_id": run, "key": "k", "value": 1.5, "timestamp": 3, "step": 4}),
            ("POST", "runs/log-parameter", {"run_id": run, "key": f"k{self.count}", "value": "v"}),
            ("POST", "runs/set-tag", {"run_id": run, "key": "k", "value": "v"}),
            ("POST", "runs/delete-tag", {"run_id": run, "key": "nope"}),
            ("POST", "runs/log-batch", {"run_id": run, "metrics": [{"key": "k", "value": 1, "timestamp": 2, "step": 3}], "params": [{"key": f"p{self.count}", "value": "v"}], "tags": [{"key": "t", "value": "v"}]}),
            ("POST", "runs/log-inputs", {"run_id": run, "datasets": [{"dataset": {"name": "n", "digest": "d", "source_type": "t", "source": "s"}, "tags": [{"key": "a", "value": "b"}]}]}),
            ("POST", "runs/outputs", {"run_id": run, "models": [{"model_id": model, "step": 1}]}),
            ("POST", "runs/search", {"experiment_ids": ["999999999"], "filter": "metrics.a > 1", "max_results": 5, "order_by": ["start_time"], "run_view_type": "ALL"}),
            ("POST", "logged-models", {"experiment_id": exp, "name": "n", "params": [{"key": "a", "value": "b"}], "tags": [{"key": "a", "value": "b"}]}),
            ("POST", "logged-models/search", {"experiment_ids": ["999999999"], "filter": "name = 'x'", "max_results": 5}),
            ("PATCH", "logged-models/" + model, {"model_id": model, "status": "LOGGED_MODEL_READY"}),
            ("PATCH", f"logged-models/{model}/tags", {"tags": [{"key": "a", "value": "b"}]}),
            ("POST", "registered-models/create", {"name": new, "tags": [{"key": "a", "value": "b"}], "description": "d"}),
            ("PATCH", "registered-models/update", {"name": reg, "description": "d"}),
            ("POST", "registered-models/set-tag", {"name": reg, "key": "k", "value": "v"}),
            ("DELETE", "registered-models/delete-tag", {"name": reg, "key": "k"}),
            ("POST", "registered-models/alias", version | {"alias": "a"}),
            ("DELETE", "registered-models/alias", {"name": reg, "alias": "a"}),
            ("POST", "model-versions/create", {"name": reg, "source": "s3://x/y", "description": "d", "tags": [{"key": "a", "value": "b"}]}),
            ("PATCH", "model-versions/update", version | {"description": "d"}),
            ("POST", "model-versions/transition-stage", version | {"stage": "Staging", "archive_existing_versions": False}),
            ("POST", "model-versions/set-tag", version | {"key": "k", "value": "v"}),
            ("DELETE", "model-versions/delete-tag", version | {"key": "k"}),
        ])  # fmt: skip

    def bad(self):
        method, path, body = self.good()
        path = API + path
        key = self.pick(sorted(body))
        how = self.pick(["drop", "drop", "drop", "type", "type", "empty", "null", "camel", "both", "extra", "kind", "cut", "utf8", "none", "twice", "method", "nested", "nested"])
        call = Call(method, path, body, scrap=True)
        made = {
            "experiments/create": ["experiment_id"],
            "runs/create": ["run.info.run_id", "run.info.run_name"],
            "logged-models": ["model.info.model_id", "model.info.name"],
        }
        call.binds = {self.symbol("scrapped"): field for field in made.get(path.removeprefix(API), [])}
        if how == "drop" and key != "filter":  # which keeps a search to what the story made
            del body[key]
        elif how == "type":
            body[key] = self.pick([12, 1.5, True, [], ["x"], {}, {"a": 1}, "x-" + self.prefix])
        elif how == "empty":
            body[key] = ""
        elif how == "null":
            body[key] = None
        elif how in ("camel", "both"):
            first, *rest = key.split("_")
            other = first + "".join(r.title() for r in rest)
            value = body[key]
            if how == "camel":
                del body[key]
            body[other] = value
        elif how == "extra":
            body["what_is_this"] = self.pick([1, "x", {}, None])
        elif how == "kind":
            call.headers = {"Content-Type": self.pick(["text/plain", "", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "Application/JSON"])}
        elif how == "cut":
            call.body, call.raw, call.headers = None, b'{"run_id": "x", "key', {"Content-Type": "application/json"}
        elif how == "utf8":
            call.body, call.raw, call.headers = None, b'{"name": "\xff\xfe"}', {"Content-Type": "application/json"}
        elif how == "none":
            call.body, call.raw, call.headers = None, self.pick([b"", b"null", b"[]", b"name=foo", b"12", b'"x"']), {"Content-Type": "application/json"}
        elif how == "twice":
            pass  # a call that is right
        elif how == "method":
            call.method = self.pick(["GET", "PUT", "DELETE", "PATCH", "POST"])
        elif how == "nested":
            lists = [k for k, v in body.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
            if lists:
                item = body[self.pick(lists)][0]
                k = self.pick(sorted(item))
                change = self.pick(["drop", "type", "empty", "long"])
                if change == "drop":
                    del item[k]
                elif change == "type":
                    item[k] = self.pick([12, 1.5, True, [], {}, "x"])
                elif change == "long":
                    item[k] = LONG
                else:
                    item[k] = ""
        yield call

    def limits(self):
        run = "⟨scraprun⟩" if hasattr(self, "scrapped") else self.run()
        point = {"key": "k", "value": 1, "timestamp": 1, "step": 1}
        pair = lambda i: {"key": f"k{i}", "value": "v"}  # noqa: E731
        yield self.pick([
            lambda: Call("POST", API + "runs/log-batch", {"run_id": run, "metrics": [point] * 1001}),
            lambda: Call("POST", API + "runs/log-batch", {"run_id": run, "params": [pair(i) for i in range(101)]}),
            lambda: Call("POST", API + "runs/log-batch", {"run_id": run, "tags": [pair(i) for i in range(101)]}),
            lambda: Call("POST", API + "runs/log-batch", {"run_id": run, "metrics": [point] * 950, "tags": [pair(i) for i in range(51)]}),
            lambda: Call("POST", API + "runs/log-metric", {"run_id": run, "key": LONG, "value": 1, "timestamp": 1}),
            lambda: Call("POST", API + "runs/log-metric", {"run_id": run, "key": self.pick(["../a", "/a", "a//b", "", ".", "a,b", "a#b", "ok:x"]), "value": 1, "timestamp": 1}),
            lambda: Call("POST", API + "runs/log-metric", {"run_id": run, "key": "k", "value": 1, "timestamp": -1}),
            lambda: Call("POST", API + "runs/log-parameter", {"run_id": run, "key": self.pick([LONG, "../a", "a,b"]), "value": "v"}),
            lambda: Call("POST", API + "runs/log-parameter", {"run_id": run, "key": f"long{self.count}", "value": "v" * 6500}),
            lambda: Call("POST", API + "runs/set-tag", {"run_id": run, "key": self.pick([LONG, "../a", "a,b"]), "value": "v"}),
            lambda: Call("POST", API + "runs/set-tag", {"run_id": run, "key": "long", "value": "v" * 8500}),
            lambda: Call("POST", API + "runs/log-batch", {"run_id": run, "tags": [{"key": self.pick([LONG, "../a", "a,b"]), "value": "v"}]}),
            lambda: Call("POST", API + "runs/log-batch", {"run_id": run, "metrics": [point, dict(point, key=self.pick([LONG, "../a", "a,b"]))]}),
            lambda: Call("POST", API + "runs/search", {"experiment_ids": self.experiments, "max_results": self.pick([0, -1, 50001])}),
            lambda: Call("POST", API + "experiments/search", {"max_results": self.pick([0, -1, 50001])}),
            lambda: Call("POST", API + "experiments/create", {"name": self.pick(["", "n" * 501])}),
            lambda: Call("POST", API + "experiments/create", {"name": f"scrap-{self.prefix}-{self.count}", "artifact_location": self.pick(["runs:/x", "s3://a#b", "abfss://c@a/b", "ftp://x", "s3://b?x=../y", "mlflow-artifacts://host/x"])}, scrap=True),
            lambda: Call("POST", API + "experiments/set-experiment-tag", {"experiment_id": self.experiment(), "key": self.pick([LONG, "", "a,b"]), "value": "v"}),
            lambda: Call("POST", API + "experiments/set-experiment-tag", {"experiment_id": self.experiment(), "key": "long", "value": "v" * 20001}),
            lambda: Call("GET", API + "metrics/get-history-bulk-interval", query=[("run_ids", "x")] * 101 + [("metric_key", "k")]),
            lambda: Call("GET", API + "metrics/get-history-bulk-interval", query=[("run_ids", run), ("metric_key", "k"), ("start_step", self.pick(["5", "x"]))]),
            lambda: Call("GET", API + "metrics/get-history", query=[("run_id", run)]),
            lambda: Call("GET", API + "runs/get"),
            lambda: Call("GET", API + "nope/get"),
            lambda: Call("GET", API + "runs/get", query=[("run_id", self.pick(["../x", "a/b", "ü", ""]))]),
        ])()  # fmt: skip
