"""Models that are scored natively, through the real clients of the Open
Inference Protocol and beside the libraries that made them.

The first half deploys with the SDK and asks through the gateway; the second
asks an instance in frames, which is quick enough for thousands of rows.
"""

import json
import os
import pathlib
import sys
import time
import urllib.parse

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf import json_format
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from instances import runner  # noqa: E402

TYPES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE, "BYTES": TensorProto.STRING,
}  # fmt: skip


def save(path, nodes, inputs, outputs):
    """Write an ONNX model; inputs and outputs are (name, type, shape)."""
    values = [[helper.make_tensor_value_info(*v) for v in side] for side in (inputs, outputs)]
    model = helper.make_model(helper.make_graph(nodes, "g", *values), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def repository(folder):
    """Write a repository in Triton's layout: types (each input comes back), add (two versions), batched."""
    names = list(TYPES)
    save(folder / "types" / "1" / "model.onnx", [helper.make_node("Identity", [f"in_{n}"], [f"out_{n}"]) for n in names],
         [(f"in_{n}", TYPES[n], ["n"]) for n in names], [(f"out_{n}", TYPES[n], ["n"]) for n in names])  # fmt: skip
    for version, op in (("1", "Add"), ("3", "Sub")):
        save(folder / "add" / version / "model.onnx", [helper.make_node(op, ["A", "B"], ["C"])], [("A", TensorProto.FLOAT, ["n"]), ("B", TensorProto.FLOAT, ["n"])], [("C", TensorProto.FLOAT, ["n"])])
    (folder / "add" / "config.pbtxt").write_text('name: "add"\nplatform: "onnxruntime_onnx"  # a comment\nversion_policy: { all { } }\n')
    save(folder / "batched" / "1" / "model.onnx", [helper.make_node("Neg", ["X"], ["Y"])], [("X", TensorProto.FLOAT, ["n", 2])], [("Y", TensorProto.FLOAT, ["n", 2])])
    (folder / "batched" / "config.pbtxt").write_text("max_batch_size: 8\ninput [ { name: \"X\" data_type: TYPE_FP32 dims: [ 2 ] } ]\ndynamic_batching { max_queue_delay_microseconds: 1000 }\n")
    save(folder / "single" / "1" / "model.onnx", [helper.make_node("Neg", ["X"], ["Y"])], [("X", TensorProto.DOUBLE, ["n", 2])], [("Y", TensorProto.DOUBLE, ["n", 2])])


def values(kind, n=4):
    """Return values of a type, at its limits."""
    if kind == "BYTES":
        return np.array([b"", "caf\u00e9 \U0001f600".encode(), b"a\"b\\c\n", b"x" * 300][:n], dtype=object)
    if kind == "BOOL":
        return np.array([True, False, True, True])[:n]
    dtype = np.dtype({"FP16": "float16", "FP32": "float32", "FP64": "float64"}.get(kind, kind.lower()))
    if dtype.kind == "f":
        return np.array([0, -1.5, np.finfo(dtype).max, np.finfo(dtype).tiny], dtype=dtype)[:n]
    return np.array([0, 1, np.iinfo(dtype).min, np.iinfo(dtype).max], dtype=dtype)[:n]


@pytest.fixture(scope="module")
def triton(ml, tmp_path_factory):
    """An endpoint with the repository: its scoring URI and key."""
    from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model, OnlineRequestSettings

    folder = tmp_path_factory.mktemp("triton") / "models"
    repository(folder)
    name = "triton-" + os.urandom(3).hex()
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    ml.online_deployments.begin_create_or_update(ManagedOnlineDeployment(
        name="blue", endpoint_name=name, model=Model(path=folder, type="triton_model"), instance_type="Standard_DS3_v2", instance_count=2,
        request_settings=OnlineRequestSettings(max_concurrent_requests_per_instance=8))).result()  # fmt: skip
    endpoint = ml.online_endpoints.get(name)
    endpoint.traffic = {"blue": 100}
    endpoint = ml.online_endpoints.begin_create_or_update(endpoint).result()
    yield urllib.parse.urlparse(endpoint.scoring_uri), ml.online_endpoints.get_keys(name).primary_key, name
    ml.online_endpoints.begin_delete(name).result()


class Over:
    """One of the two clients, so that the same checks run with both."""

    def __init__(self, module, url, headers):
        self.module, self.headers = module, headers
        self.client = module.InferenceServerClient(url)

    def __getattr__(self, name):
        return lambda *a, **k: getattr(self.client, name)(*a, headers=dict(self.headers), **k)

    def inputs(self, arrays, **how):
        out = []
        for name, kind, array in arrays:
            i = self.module.InferInput(name, list(array.shape), kind)
            i.set_data_from_numpy(array, **how)
            out.append(i)
        return out

    @staticmethod
    def json(message):
        return message if isinstance(message, (dict, list)) else json_format.MessageToDict(message, preserving_proto_field_name=True)


@pytest.fixture(scope="module", params=["http", "grpc"])
def client(request, triton):
    uri, key, name = triton
    if request.param == "http":
        yield Over(tritonclient.http, f"{uri.hostname}:{uri.port}{uri.path.removesuffix('/score').rstrip('/')}", {"Authorization": f"Bearer {key}"})
    else:
        yield Over(tritonclient.grpc, f"{uri.hostname}:{uri.port}", {"authorization": f"Bearer {key}", "azureml-endpoint": name})


def test_a_repository_tells_what_it_has(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("add") and client.is_model_ready("add", "1") and client.is_model_ready("add", "3")
    assert not client.is_model_ready("add", "2") and not client.is_model_ready("missing")
    meta = client.json(client.get_model_metadata("add"))
    assert meta["versions"] == ["1", "3"] and meta["platform"] == "onnxruntime_onnx"
    assert [i["name"] for i in meta["inputs"]] == ["A", "B"] and [str(d) for d in meta["inputs"][0]["shape"]] == ["-1"]
    assert "binary_tensor_data" in client.json(client.get_server_metadata())["extensions"]
    index = client.json(client.get_model_repository_index())
    index = index["models"] if isinstance(index, dict) else index
    assert {(m["name"], m["version"]) for m in index} == {("add", "1"), ("add", "3"), ("batched", "1"), ("single", "1"), ("types", "1")}
    config = client.json(client.get_model_config("batched"))
    assert config.get("config", config)["max_batch_size"] == 8


def test_every_type_comes_back_as_it_was_sent(client):
    arrays = [(f"in_{k}", k, values(k)) for k in TYPES]
    result = client.infer("types", client.inputs(arrays))
    for name, _, sent in arrays:
        got = result.as_numpy(name.replace("in_", "out_"))
        assert got.dtype == sent.dtype and got.tolist() == sent.tolist(), name


def test_versions_and_outputs_are_chosen(client):
    a, b = np.array([1, 2, 3], dtype=np.float32), np.array([10, 20, 30], dtype=np.float32)
    inputs = client.inputs([("A", "FP32", a), ("B", "FP32", b)])
    assert client.infer("add", inputs, model_version="1").as_numpy("C").tolist() == [11, 22, 33]
    assert client.infer("add", inputs).as_numpy("C").tolist() == [-9, -18, -27], "the highest version is the default"
    named = client.infer("add", inputs, outputs=[client.module.InferRequestedOutput("C")], request_id="me")
    reply = client.json(named.get_response())
    assert reply["id"] == "me" and reply["model_version"] == "3"


def test_what_a_model_did_is_counted(client):
    x = client.inputs([("X", "FP64", np.zeros((3, 2)))])

    def counted():
        found = client.json(client.get_inference_statistics("single"))["model_stats"]
        assert [m["name"] for m in found] == ["single"]
        stats = found[0].get("inference_stats", {})
        return {"rows": int(found[0].get("inference_count", 0)), "runs": int(found[0].get("execution_count", 0)), "ns": int(stats.get("success", {}).get("ns", 0))}

    client.infer("single", x)
    # There are two instances, and each counts what it did itself.
    seen = [counted() for _ in range(20)]
    assert any(c["runs"] >= 1 and c["rows"] >= 3 and c["ns"] > 0 for c in seen), seen


def test_tensors_without_elements_are_taken(client):
    result = client.infer("single", client.inputs([("X", "FP64", np.zeros((0, 2)))]))
    assert result.as_numpy("Y").shape == (0, 2)
    assert client.infer("types", client.inputs([(f"in_{k}", k, values(k, 0)) for k in TYPES])).as_numpy("out_BYTES").shape == (0,)


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.load_model("single"), lambda c: c.unload_model("single"), lambda c: c.get_trace_settings(), lambda c: c.get_trace_settings("single"),
        lambda c: c.update_log_settings(settings={"log_verbose_level": 1}), lambda c: c.register_system_shared_memory("m", "/m", 64),
    ],
)  # fmt: skip
def test_what_is_not_offered_says_so(client, call):
    with pytest.raises(InferenceServerException) as e:
        call(client)
    assert "not" in e.value.message() and "Not Found" not in e.value.message()
    assert client.is_server_live()


@pytest.mark.parametrize(
    "model,arrays,says",
    [
        ("missing", [("A", "FP32", 1)], "Request for unknown model: 'missing' is not found"),
        ("add", [("A", "FP32", 1), ("Z", "FP32", 1)], "unexpected inference input 'Z' for model 'add'"),
        ("add", [("A", "FP32", 1)], "expected 2 inputs but got 1 inputs for model 'add'"),
        ("add", [("A", "INT32", 1), ("B", "FP32", 1)], "inference input 'A' data-type is 'INT32', but model 'add' expects 'FP32'"),
        ("batched", [("X", "FP32", (2, 3))], "unexpected shape for input 'X' for model 'batched'. Expected [-1,2], got [2,3]. "),
        ("batched", [("X", "FP32", (9, 2))], "inference request batch-size must be <= 8 for 'batched'"),
    ],
)
def test_errors_are_tritons(client, model, arrays, says):
    inputs = client.inputs([(n, k, np.zeros(s, dtype="int32" if k == "INT32" else "float32")) for n, k, s in arrays])
    with pytest.raises(InferenceServerException, match=".*") as e:
        client.infer(model, inputs)
    assert says in e.value.message()


def test_json_and_compression_over_rest(triton):
    uri, key, _ = triton
    client = Over(tritonclient.http, f"{uri.hostname}:{uri.port}{uri.path.removesuffix('/score').rstrip('/')}", {"Authorization": f"Bearer {key}"})
    for kind in TYPES:
        if kind == "FP16":
            continue
        arrays = [(f"in_{k}", k, values(k)) for k in TYPES if k != "FP16"] + [("in_FP16", "FP16", values("FP16"))]
        inputs = [client.inputs([a], binary_data=a[1] == "FP16" or a[1] != kind)[0] for a in arrays]
        outputs = [tritonclient.http.InferRequestedOutput(f"out_{k}", binary_data=k != kind) for k in TYPES]
        for coding in (None, "gzip", "deflate"):
            result = client.infer("types", inputs, outputs=outputs, request_compression_algorithm=coding, response_compression_algorithm=coding)
            got = result.as_numpy(f"out_{kind}").tolist()
            want = values(kind).tolist()
            assert [v.encode() if isinstance(v, str) else v for v in got] == want, (kind, coding)


def test_a_stream_over_grpc_tells_errors_in_band(triton):
    uri, key, name = triton
    client = tritonclient.grpc.InferenceServerClient(f"{uri.hostname}:{uri.port}")
    got = []
    client.start_stream(lambda result, error: got.append((result, error)), headers={"authorization": f"Bearer {key}", "azureml-endpoint": name})
    over = Over(tritonclient.grpc, f"{uri.hostname}:{uri.port}", {})
    good = over.inputs([("X", "FP64", np.array([[1.0, 2.0]]))])
    client.async_stream_infer("single", good)
    client.async_stream_infer("missing", good)
    client.async_stream_infer("single", good)
    deadline = time.monotonic() + 60
    while len(got) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    client.stop_stream()
    assert [error is None for _, error in got] == [True, False, True]
    assert "unknown model" in got[1][1].message() and got[2][0].as_numpy("Y").tolist() == [[-1.0, -2.0]]
    client.close()


# In frames.


JSON = [("Content-Type", "application/json")]


def post(instance, path, body):
    reply = instance.ask("POST", path, JSON, body if isinstance(body, bytes) else json.dumps(body).encode())
    return reply.status, reply.body


def table(rows, seed, categorical):
    """Return features with missing values, zeros, extremes and, if asked for, categories."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5))
    x[rng.random(x.shape) < 0.15] = np.nan
    x[rng.random(x.shape) < 0.1] = 0
    if categorical:
        x[:, 0] = rng.integers(0, 30, rows)
        x[rng.random(rows) < 0.1, 0] = np.nan
        x[:, 3] = rng.integers(0, 6, rows)
    return x.astype(np.float32).astype(np.float64)


def target(x, objective):
    z = np.nan_to_num(x)
    y = np.sin(z[:, 1]) + z[:, 2] * z[:, 4] + z[:, 0] * 0.1
    if "binary" in objective or "logistic" in objective:
        return (y > 0).astype(int)
    if "multi" in objective:
        return np.digitize(y, [-0.5, 0.5])
    if any(w in objective for w in ("poisson", "gamma", "tweedie")):
        return np.exp(np.clip(y, -2, 2)) + 0.01
    if "entropy" in objective:
        return 1 / (1 + np.exp(-y))
    return y


def close(got, want, tolerance):
    got, want = np.array(got, dtype=float), np.array(want, dtype=float)
    assert got.shape == want.shape
    assert np.allclose(got, want, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True), np.nanmax(np.abs(got - want))


LIGHTGBM = [
    ("regression", {}), ("regression", {"linear_tree": True}), ("regression", {"zero_as_missing": True}), ("regression", {"boosting": "dart"}), ("regression", {"reg_sqrt": True}),
    ("binary", {"sigmoid": 2.5}), ("binary", {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}), ("multiclass", {"num_class": 3}), ("multiclassova", {"num_class": 3}),
    ("tweedie", {}), ("cross_entropy", {}), ("cross_entropy_lambda", {}), ("quantile", {"use_missing": False}),
]  # fmt: skip


@pytest.mark.parametrize("objective,settings", LIGHTGBM, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "plain")
def test_lightgbm_models_score_as_lightgbm_does(objective, settings, tmp_path):
    import lightgbm

    categorical = "linear_tree" not in settings
    x = table(400, 1, categorical)
    data = lightgbm.Dataset(x, target(x, objective), categorical_feature=[0, 3] if categorical else [], params={"verbose": -1})
    lightgbm.train({"objective": objective, "verbose": -1, "num_threads": 1, "min_data_in_leaf": 3, **settings}, data, 12).save_model(tmp_path / "model.txt")
    rows = table(1500, 2, categorical)
    rows[:3], rows[3:6] = 1e30, -1e30
    rows[6, 0], rows[7, 0] = 999, -0.5
    with runner("lightgbm", tmp_path / "model.txt") as instance:
        status, body = post(instance, "/score", json.dumps({"input_data": rows.tolist()}).encode())
    assert status == 200, body
    close(json.loads(body), lightgbm.Booster(model_file=tmp_path / "model.txt").predict(rows), 1e-14)


XGBOOST = [
    ("reg:squarederror", {}), ("reg:squarederror", {"booster": "dart", "rate_drop": 0.3}), ("reg:squarederror", {"num_parallel_tree": 4, "subsample": 0.6}), ("binary:logistic", {}),
    ("binary:logitraw", {}), ("binary:hinge", {}), ("binary:logistic", {"booster": "gblinear"}), ("multi:softprob", {"num_class": 3}), ("multi:softmax", {"num_class": 3}),
    ("count:poisson", {}), ("reg:tweedie", {}), ("reg:quantileerror", {"quantile_alpha": [0.1, 0.9]}),
]  # fmt: skip


@pytest.mark.parametrize("form", ["json", "ubj"])
@pytest.mark.parametrize("objective,settings", XGBOOST, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "plain")
def test_xgboost_models_score_as_xgboost_does(objective, settings, form, tmp_path):
    import xgboost

    categorical = settings.get("booster") != "gblinear"
    kinds = ["c" if i in (0, 3) and categorical else "q" for i in range(5)]
    x = table(400, 3, categorical)
    data = xgboost.DMatrix(x, target(x, objective), feature_types=kinds, enable_categorical=True)
    file = tmp_path / f"model.{form}"
    xgboost.train({"objective": objective, "nthread": 1, "max_cat_to_onehot": 4, **settings}, data, 10).save_model(file)
    rows = table(1500, 4, categorical)
    rows[:3, 1], rows[3:6, 2] = 1e30, -1e30
    booster = xgboost.Booster(model_file=file)
    want = booster.predict(xgboost.DMatrix(rows, feature_types=kinds, enable_categorical=True))
    with runner("xgboost", file) as instance:
        status, body = post(instance, "/score", {"input_data": rows.tolist()})
    assert status == 200, body
    close(json.loads(body), want, 1e-6)


def test_a_forest_scores_as_scikit_learn_does(tmp_path):
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_iris(return_X_y=True)
    x = x.astype(np.float32)
    forest = RandomForestClassifier(20, random_state=0).fit(x, y)
    rows = np.random.default_rng(5).uniform(0, 8, (2000, 4)).astype(np.float32)
    for zipmap in (False, True):
        (tmp_path / "model.onnx").write_bytes(to_onnx(forest, x[:1], options={"zipmap": zipmap}).SerializeToString())
        # Of several threads, each sums trees of its own: the last digit differs.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        label, chances = onnxruntime.InferenceSession(tmp_path / "model.onnx", options).run(None, {"X": rows})
        with runner("onnx", tmp_path / "model.onnx") as instance:
            for body in ({"input_data": rows.tolist()}, {"data": rows.tolist()}, rows.tolist(), {"X": rows.tolist()}):
                status, reply = post(instance, "/score", body)
                assert status == 200, reply
                first, second = json.loads(reply).values()
                assert first == label.tolist()
                assert second == ([{str(k): float(v) for k, v in row.items()} for row in chances] if zipmap else chances.tolist())


@pytest.mark.parametrize(
    "flavor,name,content,says",
    [
        ("onnx", "model.onnx", b"not a model", "model.onnx is no ONNX model that can be loaded: "),
        ("lightgbm", "model.txt", b"tree\nversion=v4\n", 'model.txt is no LightGBM model that can be loaded: it ends before the line "end of trees"'),
        ("xgboost", "model.json", b'{"learner": 1}', 'model.json is no XGBoost model that can be loaded: it has no "learner"'),
        ("xgboost", "model.ubj", b"{L\x00\x00", "model.ubj is no XGBoost model that can be loaded: it ends too early"),
        ("triton", "models", None, "there is no model in the model repository: {name}/{version}/model.onnx is needed"),
    ],
)
def test_what_is_no_model_says_so_in_the_first_line(flavor, name, content, says, tmp_path):
    from instances import NotStarted

    file = tmp_path / name
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(NotStarted) as e, runner(flavor, file):
        pass
    assert str(e.value).splitlines()[0].startswith(says)


def test_an_instance_that_is_killed_comes_back_and_others_serve(tmp_path):
    from instances import Connection

    repository(tmp_path / "models")
    ask = ("POST", "/v2/models/single/infer", JSON, b'{"inputs":[{"name":"X","shape":[1,2],"datatype":"FP64","data":[1,2]}]}')
    with runner("triton", tmp_path / "models", LAPIS_GROUP_COUNT="2") as instance:
        control = Connection(pathlib.Path(instance.folder.name) / "control.sock")

        def state():
            return json.loads(control.ask("GET", "/instances", [], b"").body)["instances"]

        deadline = time.monotonic() + 60
        while not all(i["state"] == "Ready" for i in state()) and time.monotonic() < deadline:
            time.sleep(0.02)
        first, second = state()
        other = Connection(second["address"])
        os.kill(first["pid"], 11)
        assert other.ask(*ask).status == 200
        while (now := state()[0])["state"] != "Ready" or now["pid"] == first["pid"]:
            assert time.monotonic() < deadline
            assert other.ask(*ask).status == 200
        assert now["restarts"] == 1 and now["address"] == first["address"]
        back = Connection(now["address"])
        assert json.loads(back.ask(*ask).body)["outputs"][0]["data"] == [-1.0, -2.0]
        for c in (control, other, back):
            c.close()


def test_requests_that_are_put_together_get_their_own_rows(tmp_path):
    import concurrent.futures

    from instances import Connection

    repository(tmp_path / "models")
    with runner("triton", tmp_path / "models", LAPIS_GROUP_BATCH_SIZE="16", LAPIS_GROUP_BATCH_DELAY_US="2000") as instance:
        address = instance.address

        def caller(n):
            c = Connection(address)
            try:
                for k in range(60):
                    rows = [[n * 1000 + k, j] for j in range(1 + k % 3)]
                    body = {"inputs": [{"name": "X", "shape": [len(rows), 2], "datatype": "FP64", "data": rows}]}
                    got = json.loads(c.ask("POST", "/v2/models/single/infer", JSON, json.dumps(body).encode()).body)
                    assert got["outputs"][0]["shape"] == [len(rows), 2]
                    assert got["outputs"][0]["data"] == [-float(v) for row in rows for v in row]
            finally:
                c.close()

        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            list(pool.map(caller, range(12)))
