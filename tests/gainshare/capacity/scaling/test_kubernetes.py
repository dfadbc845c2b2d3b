"""The Kubernetes examples: objects that the API server would take, and addresses and options that exist."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from django.urls import resolve

from gainshare.capacity.agent.options import parse_options
from gainshare.capacity.scaling.serializers import WantedSerializer

EXAMPLES = Path(__file__).resolve().parents[4] / "examples" / "kubernetes"


def objects(name: str) -> dict[str, dict[str, Any]]:
    """The file's objects by kind."""
    return {found["kind"]: found for found in yaml.safe_load_all((EXAMPLES / name).read_text())}


def test_keda_reads_an_address_and_a_field_that_exist() -> None:
    (trigger,) = objects("scaledobject.yaml")["ScaledObject"]["spec"]["triggers"]
    told = trigger["metadata"]
    found = resolve(told["url"].removeprefix("SITE"))
    assert (found.url_name, found.kwargs) == ("capacity-wanted", {"model": "MODEL", "device_class": "CLASS"})
    assert told["valueLocation"] in WantedSerializer().fields
    # As many pods as are wanted: the average over the pods is compared with 1.
    assert (trigger["metricType"], told["targetValue"]) == ("AverageValue", "1")
    authentication = objects("scaledobject.yaml")["TriggerAuthentication"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert authentication["spec"]["secretTargetRef"][0]["parameter"] == "token"


def test_what_is_scaled_is_there() -> None:
    target = objects("scaledobject.yaml")["ScaledObject"]["spec"]["scaleTargetRef"]
    agents = objects("agents.yaml")[target["kind"]]
    assert (target["name"], target["apiVersion"]) == (agents["metadata"]["name"], agents["apiVersion"])
    spec = agents["spec"]
    assert "replicas" not in spec, "applying the file again would undo what KEDA has set"
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]


def test_the_agent_takes_the_options_and_has_the_time_to_drain() -> None:
    pod = objects("agents.yaml")["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "gainshare.capacity.agent"]
    options = parse_options([word.replace("SITE", "https://site.example") for word in container["args"]])
    assert options.stop_s < pod["terminationGracePeriodSeconds"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


@pytest.mark.parametrize("name", ["agents.yaml", "scaledobject.yaml"])
def test_the_plain_objects_are_valid(name: str) -> None:
    validator = pytest.importorskip(
        "kubernetes_validate", reason="expected: kubernetes-validate is not installed"
    )
    for kind, found in objects(name).items():
        if not found["apiVersion"].startswith("keda.sh/"):
            validator.validate(found, "1.34", strict=True)
            with pytest.raises(validator.ValidationError):
                validator.validate({**found, "nonsense": kind}, "1.34", strict=True)
