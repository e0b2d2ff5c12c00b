"""Traces and their evaluation with the unmodified MLflow and OpenTelemetry
clients: spans over OTLP, sessions, assessments, scorers made of code."""

import json
import os
import uuid

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, SpanType
from mlflow.exceptions import MlflowException


@pytest.fixture
def client():
    return MlflowClient()


@pytest.fixture
def experiment():
    return mlflow.set_experiment("genai-" + uuid.uuid4().hex[:8])


def found(experiment, text=None, **settings):
    mlflow.flush_trace_async_logging()
    return mlflow.search_traces(locations=[experiment.experiment_id], filter_string=text, return_type="list", **settings)


@mlflow.trace(span_type=SpanType.TOOL)
def look_up(word):
    return {"tea": "a drink", "chair": "a seat"}.get(word)


@mlflow.trace
def answer(question):
    with mlflow.start_span("model", span_type=SpanType.CHAT_MODEL, attributes={"temperature": 0.5}) as span:
        span.set_inputs({"prompt": question})
        span.set_outputs("what " + (look_up(question) or "I do not know"))
    return "what " + (look_up(question) or "I do not know")


def test_opentelemetrys_own_exporter_sends_spans(experiment):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.trace import StatusCode

    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    for compression in ("none", "gzip"):
        from opentelemetry.exporter.otlp.proto.http import Compression

        exporter = OTLPSpanExporter(
            endpoint=os.environ["MLFLOW_TRACKING_URI"].rstrip("/") + "/v1/traces",
            headers={"x-mlflow-experiment-id": experiment.experiment_id, "authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]},
            certificate_file=os.environ.get("REQUESTS_CA_BUNDLE"), compression=Compression(compression),
        )  # fmt: skip
        provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        with tracer.start_as_current_span("checkout", attributes={"user": "ann", "items": [1, 2], "total": 9.5, "paid": True}) as root:
            root.add_event("paid", {"how": "card"})
            with tracer.start_as_current_span("stock") as inner:
                inner.set_status(StatusCode.ERROR, "none left")
        provider.shutdown()
    traces = found(experiment)
    assert [len(t.data.spans) for t in traces] == [2, 2]
    root = next(s for s in traces[0].data.spans if s.parent_id is None)
    assert root.name == "checkout" and root.get_attribute("total") == 9.5 and root.get_attribute("paid") is True
    assert root.get_attribute("items") == [1, 2] and root.events[0].name == "paid" and root.events[0].attributes["how"] == "card"
    inner = next(s for s in traces[0].data.spans if s.parent_id)
    assert inner.status.status_code.value == "ERROR" and inner.parent_id == root.span_id
    assert {t.info.trace_id for t in found(experiment, "span.name = 'stock'")} == {t.info.trace_id for t in traces}


def test_a_trace_comes_back_as_it_was_made(client, experiment):
    with mlflow.start_run() as active:
        answer("tea")
    [trace] = found(experiment)
    tree = {s.name: s for s in trace.data.spans}
    assert tree["answer"].outputs == "what a drink" and tree["model"].span_type == "CHAT_MODEL"
    assert tree["model"].parent_id == tree["answer"].span_id and tree["model"].get_attribute("temperature") == 0.5
    assert trace.info.execution_duration is not None and trace.info.state.value == "OK"
    assert json.loads(trace.info.request_preview)["question"] == "tea" and "a drink" in trace.info.response_preview
    assert trace.info.trace_metadata["mlflow.sourceRun"] == active.info.run_id
    assert [t.info.trace_id for t in found(experiment, run_id=active.info.run_id)] == [trace.info.trace_id]
    assert client.get_trace(trace.info.trace_id).to_dict()["data"]["spans"] == trace.to_dict()["data"]["spans"]
    assert mlflow.get_trace(mlflow.get_last_active_trace_id()).info.trace_id == trace.info.trace_id


def test_traces_of_a_session_and_a_user_are_found(experiment):
    @mlflow.trace
    def chat(session, n):
        mlflow.update_current_trace(metadata={"mlflow.trace.session": session, "mlflow.trace.user": "ann"}, client_request_id=f"{session}-{n}")
        return n

    for n in range(3):
        chat("s1" if n < 2 else "s2", n)
    assert len(found(experiment, "metadata.`mlflow.trace.session` = 's1'")) == 2
    assert len(found(experiment, "client_request_id IN ('s1-0', 's2-2')")) == 2
    pages, token = [], None
    while True:
        page = MlflowClient().search_traces(locations=[experiment.experiment_id], max_results=2, page_token=token, order_by=["timestamp_ms ASC"])
        pages.append([t.info.client_request_id for t in page])
        if not (token := page.token):
            break
    # Those of one millisecond come in the order of their ids.
    assert [len(p) for p in pages] == [2, 1] and {id for p in pages for id in p} == {"s1-0", "s1-1", "s2-2"}


def test_assessments_override_and_are_deleted(client, experiment):
    answer("chair")
    [trace] = found(experiment)
    id = trace.info.trace_id
    first = mlflow.log_feedback(trace_id=id, name="good", value=False, source=AssessmentSource("HUMAN", "ann"), rationale="no", metadata={"k": "v"})
    second = mlflow.override_feedback(trace_id=id, assessment_id=first.assessment_id, value=True, rationale="yes")
    assert mlflow.get_assessment(id, second.assessment_id).overrides == first.assessment_id
    assert mlflow.get_assessment(id, first.assessment_id).valid is False
    wanted = mlflow.log_expectation(trace_id=id, name="want", value={"parts": ["a", "seat"]}, span_id=trace.data.spans[0].span_id)
    assert mlflow.get_assessment(id, wanted.assessment_id).value == {"parts": ["a", "seat"]}
    mlflow.log_feedback(trace_id=id, name="broken", error=ValueError("oops"))
    assert {a.name for a in mlflow.get_trace(id).info.assessments} == {"good", "want", "broken"}
    mlflow.delete_assessment(trace_id=id, assessment_id=wanted.assessment_id)
    with pytest.raises(MlflowException, match="not found"):
        mlflow.get_assessment(id, wanted.assessment_id)


def test_evaluation_runs_scorers_of_code_over_data_and_over_traces(client, experiment):
    from mlflow.genai import datasets
    from mlflow.genai.scorers import scorer

    @scorer
    def knows(outputs):
        return "do not know" not in outputs

    @scorer
    def length(outputs, expectations):
        return len(outputs) - expectations.get("length", 0)

    data = datasets.create_dataset(name="questions", experiment_id=experiment.experiment_id)
    data.merge_records([{"inputs": {"question": q}, "expectations": {"length": 10}} for q in ("tea", "chair", "time")])
    result = mlflow.genai.evaluate(data=data, predict_fn=answer, scorers=[knows, length])
    run = client.get_run(result.run_id)
    assert run.data.metrics["knows/mean"] == pytest.approx(2 / 3) and "length/mean" in run.data.metrics
    traces = found(experiment, run_id=result.run_id)
    assert len(traces) == 3
    assert sorted(a.value for t in traces for a in t.info.assessments if a.name == "knows") == [False, True, True]

    again = mlflow.genai.evaluate(data=mlflow.search_traces(locations=[experiment.experiment_id], run_id=result.run_id), scorers=[knows])
    assert client.get_run(again.run_id).data.metrics["knows/mean"] == pytest.approx(2 / 3)


def test_prompts_have_versions_aliases_and_tags(client, experiment):
    name = "prompt-" + uuid.uuid4().hex[:8]
    mlflow.genai.register_prompt(name=name, template="Hello {{ name }}", commit_message="first", tags={"lang": "en"})
    mlflow.genai.register_prompt(name=name, template=[{"role": "user", "content": "Hi {{ name }}"}])
    mlflow.genai.set_prompt_alias(name, "live", 1)
    prompt = mlflow.genai.load_prompt(f"prompts:/{name}@live")
    assert prompt.version == 1 and prompt.format(name="you") == "Hello you" and prompt.commit_message == "first"
    assert mlflow.genai.load_prompt(f"prompts:/{name}/2").template[0]["content"] == "Hi {{ name }}"
    client.set_prompt_version_tag(name, "2", "ok", "yes")
    assert client.get_prompt_version(name, "2").tags["ok"] == "yes"
    assert [int(p.version) for p in client.search_prompt_versions(name)] == [2, 1]

    @mlflow.trace
    def use():
        mlflow.genai.load_prompt(f"prompts:/{name}/1")
        return 1

    with mlflow.start_run() as active:
        use()
    [trace] = found(experiment)
    assert f'"name": "{name}"' in trace.info.tags["mlflow.linkedPrompts"]
    assert [t.info.trace_id for t in found(experiment, f"prompt = '{name}/1'")] == [trace.info.trace_id]
    assert active.info.run_id
    mlflow.genai.delete_prompt_alias(name, "live")
    with pytest.raises(MlflowException):
        mlflow.genai.load_prompt(f"prompts:/{name}@live")
    client.delete_prompt_version(name, "1")
    client.delete_prompt_version(name, "2")
    client.delete_prompt(name)
    assert name not in [p.name for p in mlflow.genai.search_prompts()]
