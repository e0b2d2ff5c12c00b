"""Calls about evaluation datasets and scorers, for stories."""

import json

from compare import Call

V3 = "/api/3.0/mlflow/"


class Evaluation:
    """Steps of a story; Story has the rest of what they use."""

    def a_dataset(self):
        return self.pick(self.datasets) if self.datasets and not self.chance(0.04) else "d-" + "f" * 32

    def create_dataset(self):
        s = self.symbol("dataset")
        body = {"name": f"{self.prefix}-{self.pick(['asked', 'Asked', 'told'])}{self.count}"}
        if self.chance(0.8):
            body["experiment_ids"] = self.some(self.experiments + ["999999999"], 1, 2)
        if self.chance(0.6):
            body["tags"] = json.dumps({k: self.pick(["blue", "red", "x%"]) for k in self.some(["team", "kind"], 1, 2)})
        a = yield Call("POST", V3 + "datasets/create", body, binds={s: "dataset.dataset_id"})
        if a.ok:
            self.datasets.append(s)

    def record(self):
        r = {"inputs": {"q": self.pick(["a", "b", "c", "ü"])}}
        if self.chance(0.5):
            r["expectations"] = {self.pick(["e", "f"]): self.pick(["x", 2, True, {"a": [1]}])}
        if self.chance(0.4):
            r["tags"] = {self.pick(["k", "l"]): self.pick(["v", "w"])}
        if self.chance(0.2):
            r["source"] = {"source_type": self.pick(["HUMAN", "TRACE", "CODE"]), "source_data": {"trace_id": "tr-1"}}
        if self.chance(0.2):
            r["outputs"] = {"a": 1}  # MLflow fails when there were texts before
        return r

    def records(self):
        d = self.a_dataset()
        # MLflow fails in itself over two records with the same inputs.
        records = list({r["inputs"]["q"]: r for r in (self.record() for _ in range(self.random.randint(1, 4)))}.values())
        yield Call("POST", f"{V3}datasets/{d}/records", {"records": json.dumps(records)})
        yield Call("GET", f"{V3}datasets/{d}/records")  # records of one call are in no order

    def dataset_calls(self):
        d = self.a_dataset()
        path = f"{V3}datasets/{d}"
        yield self.pick([
            lambda: Call("GET", path),
            lambda: Call("GET", path),
            lambda: Call("PATCH", path + "/tags", {"tags": json.dumps({"team": self.pick(["green", "blue"]), "n": "1"})}),
            lambda: Call("DELETE", path + "/tags/" + self.pick(["team", "nope"])),
            lambda: Call("GET", path + "/experiment-ids"),
            lambda: Call("POST", path + "/add-experiments", {"experiment_ids": [self.experiment()]}),
            lambda: Call("POST", path + "/remove-experiments", {"experiment_ids": [self.experiment()]}),
            lambda: Call("DELETE", path) if self.chance(0.4) else Call("GET", path),
            lambda: Call("DELETE", path + "/records", {"dataset_record_ids": ["dr-nope"]}),
            lambda: Call("POST", path + "/records", {"records": self.pick(["", "[]", "nope", '[{"expectations": {"a": 1}}]', "[1]"])}),
            lambda: Call("PATCH", path + "/tags", {}),
            lambda: Call("POST", V3 + "datasets/create", self.pick([{}, {"name": ""}, {"name": "x", "tags": "nope"}])),
        ])()  # fmt: skip
        if self.chance(0.5):
            yield Call("GET", path)

    def search_datasets(self):
        clauses = [f"name LIKE '{self.prefix}%'"]
        if self.chance(0.6):
            clauses.append(self.pick([
                "tags.team = 'blue'", "tags.team != 'blue'", "tags.kind LIKE 'r%'", "name ILIKE '%ASKED%'", "name != 'x'", "created_time > 0", "last_update_time < 9999999999999",
                "created_by = 'x'", "last_updated_by != 'x'", "nope = 'x'", "name > 'x'", "created_time = 'x'", "tags.team = blue", "x",
            ]))  # fmt: skip
        body = {"filter_string": self.joined(clauses)}
        if self.chance(0.7):
            body["experiment_ids"] = self.experiments
        if self.chance(0.5):
            body["order_by"] = self.orders(["name", "created_time", "last_update_time"], ["nope", "tags.team", ""])
        if self.chance(0.6):
            body["max_results"] = self.pick([1, 2, 50])
        yield from self.pages(self.pick(["POST", "GET"]), V3 + "datasets/search", body)

    def scorers(self):
        e, name = self.experiment(), self.pick(["polite", "Brief", "a b"])
        payload = {"name": name, "mlflow_version": "3.17.2", "serialization_version": 1, "builtin_scorer_class": "Guidelines", "builtin_scorer_pydantic_data": {"name": name, "guidelines": ["be polite"]}}
        version = [("version", self.pick(["1", "2", "7"]))] if self.chance(0.4) else []
        yield self.pick([
            lambda: Call("POST", V3 + "scorers/register", {"experiment_id": e, "name": name, "serialized_scorer": json.dumps(payload)}),
            lambda: Call("POST", V3 + "scorers/register", {"experiment_id": e, "name": name, "serialized_scorer": json.dumps(payload)}),
            lambda: Call("POST", V3 + "scorers/register", {"experiment_id": e, "name": name, "serialized_scorer": self.pick(["nope", "[]", json.dumps({"call_source": "x"})])}),
            lambda: Call("GET", V3 + "scorers/list", query=[("experiment_id", e)]),
            lambda: Call("GET", V3 + "scorers/versions", query=[("experiment_id", e), ("name", name)]),
            lambda: Call("GET", V3 + "scorers/get", query=[("experiment_id", e), ("name", name)] + version),
            lambda: Call("DELETE", V3 + "scorers/delete", {"experiment_id": e, "name": name} | dict((k, int(v)) for k, v in version)),
            lambda: Call("GET", V3 + "scorers/" + self.pick(["get", "versions"])),
        ])()  # fmt: skip
