"""What clients can ask for and the server does not offer yet is refused in
words, never by an accident."""

import pytest
from azure.ai.ml import Input, command, dsl
from azure.ai.ml.entities import (
    BatchEndpoint, CronTrigger, Environment, JobSchedule,
)
from azure.ai.ml.sweep import Choice
from azure.core.exceptions import HttpResponseError
from conftest import PLAIN


def node(name):
    return command(name=name, command="echo ${{inputs.x}}", environment=Environment(image=PLAIN), inputs={"x": 1})


def steps(ml, cpu, unique):
    step = ml.components.create_or_update(node(unique("step").replace("-", "_")).component)

    @dsl.pipeline(compute=cpu)
    def two():
        step(x=1)
        step(x=2)

    return two()


def pipeline(ml, cpu, unique):
    ml.jobs.create_or_update(steps(ml, cpu, unique))


def sweep(ml, cpu, unique):
    trial = command(command="echo ${{inputs.x}}", environment=Environment(image=PLAIN), compute=cpu, inputs={"x": Input(type="integer", default=1)})
    search = trial(x=Choice([1, 2])).sweep(sampling_algorithm="grid", primary_metric="m", goal="Maximize", compute=cpu)
    search.set_limits(max_total_trials=2)
    ml.jobs.create_or_update(search)


def schedule(ml, cpu, unique):
    job = steps(ml, cpu, unique)
    ml.schedules.begin_create_or_update(JobSchedule(name=unique("nightly"), trigger=CronTrigger(expression="0 3 * * *"), create_job=job)).result()


def batch_endpoint(ml, cpu, unique):
    ml.batch_endpoints.begin_create_or_update(BatchEndpoint(name=unique("ep"))).result()


def several_nodes(ml, cpu, unique):
    ml.jobs.create_or_update(command(command="echo hi", environment=Environment(image=PLAIN), compute=cpu, instance_count=2))


@pytest.mark.parametrize("ask", [pipeline, sweep, schedule, batch_endpoint, several_nodes], ids=lambda f: f.__name__)
def test_it_says_that_it_is_not_offered_yet(ask, ml, cpu, unique):
    with pytest.raises(HttpResponseError, match="not offer") as refused:
        ask(ml, cpu, unique)
    assert refused.value.status_code in {400, 501}
