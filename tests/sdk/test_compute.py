"""Compute clusters, as the SDK makes and sees them."""

import pytest
from azure.ai.ml.entities import AmlCompute, KubernetesCompute, SynapseSparkCompute, VirtualMachineCompute, VirtualMachineSshSettings
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError


def test_a_cluster_is_made_shown_changed_and_deleted(ml, unique):
    name = unique("cl")
    made = ml.compute.begin_create_or_update(
        AmlCompute(name=name, size="STANDARD_DS3_V2", min_instances=0, max_instances=2, idle_time_before_scale_down=60, tags={"a": "b"})
    ).result()
    assert made.provisioning_state == "Succeeded"

    found = ml.compute.get(name)
    assert (found.type, found.size.upper(), found.min_instances, found.max_instances) == ("amlcompute", "STANDARD_DS3_V2", 0, 2)
    assert found.idle_time_before_scale_down == 60
    assert name in [c.name for c in ml.compute.list()]

    found.max_instances = 3
    assert ml.compute.begin_update(found).result().max_instances == 3

    ml.compute.begin_delete(name).result()
    with pytest.raises(ResourceNotFoundError, match=name):
        ml.compute.get(name)


def test_sizes_and_usage_are_told(ml):
    sizes = list(ml.compute.list_sizes())
    assert sizes and all((s.v_cp_us or vars(s).get("vCPUs")) > 0 for s in sizes)  # 1.35 keeps the wire's name
    assert list(ml.compute.list_usage()) is not None


def test_a_cluster_that_would_shrink_below_nothing_is_refused(ml, unique):
    with pytest.raises(HttpResponseError) as refused:
        ml.compute.begin_create_or_update(AmlCompute(name=unique("cl"), size="STANDARD_DS3_V2", min_instances=3, max_instances=1)).result()
    assert 400 <= refused.value.status_code < 500


def test_a_compute_that_is_missing_is_named(ml):
    with pytest.raises(ResourceNotFoundError, match="no-such-compute"):
        ml.compute.get("no-such-compute")


ATTACHED = {
    "kubernetes": lambda name, id: KubernetesCompute(name=name, resource_id=id + "Microsoft.ContainerService/managedClusters/c1", namespace="ml"),
    "virtual machine": lambda name, id: VirtualMachineCompute(
        name=name, resource_id=id + "Microsoft.Compute/virtualMachines/vm1", ssh_settings=VirtualMachineSshSettings(admin_username="me", admin_password="s3cr3t-word")),
    "synapse spark": lambda name, id: SynapseSparkCompute(name=name, resource_id=id + "Microsoft.Synapse/workspaces/w1/bigDataPools/p1"),
}


@pytest.mark.parametrize("kind", ATTACHED)
def test_an_attached_compute_is_kept_and_detached(ml, rest, unique, kind):
    name = unique("at")[:16]
    id = "/subscriptions/{}/resourceGroups/elsewhere/providers/".format(ml.subscription_id)
    made = ml.compute.begin_create_or_update(ATTACHED[kind](name, id)).result()
    assert made.resource_id.startswith(id)
    assert ml.compute.get(name).type == made.type
    assert "s3cr3t-word" not in rest("GET", f"computes/{name}").text
    ml.compute.begin_delete(name, action="Detach").result()
    with pytest.raises(ResourceNotFoundError, match=name):
        ml.compute.get(name)
