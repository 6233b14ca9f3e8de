"""deploy/kubernetes against Kubernetes' own schemas, and shut in as docker-compose.yml is. What is listed is what is applied."""

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from reflux.queues import kinds
from tests.environment import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSION = "1.37"
NAME = "app.kubernetes.io/name"
SCALED = {"teacher-worker": "teacher_worker", "evaluator": "evaluator"}
LONGEST_GRACE_SECONDS = 60  # what docker-compose.yml gives a worker


def listed(folder: Path) -> list[dict[str, Any]]:
    """Every object of a kustomization, as it stands in the files."""
    found: list[dict[str, Any]] = []
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        path = (folder / name).resolve()
        found += listed(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    return found


OBJECTS = {overlay: listed(KUBERNETES / overlay) for overlay in ("cpu", "gpu")}
ALL = [pytest.param(o, id=f"{overlay}-{o['kind']}-{o['metadata']['name']}") for overlay, found in OBJECTS.items() for o in found]
WORKLOADS = [o for o in OBJECTS["gpu"] if o["kind"] in ("Deployment", "StatefulSet")]


def of(kind: str, overlay: str = "gpu") -> dict[str, dict[str, Any]]:
    return {o["metadata"]["name"]: o for o in OBJECTS[overlay] if o["kind"] == kind}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Target(Strict):
    name: str
    kind: str = "Deployment"
    apiVersion: str = "apps/v1"


class Prometheus(Strict):
    """KEDA's scalers take strings alone: a bare number is refused."""

    serverAddress: str
    query: str
    threshold: Annotated[str, StringConstraints(pattern=r"^[0-9.]+$")]
    activationThreshold: str = "0"
    namespace: str = ""
    ignoreNullValues: str = "true"


class Trigger(Strict):
    type: Literal["prometheus"]
    metadata: Prometheus
    name: str | None = None
    metricType: Literal["AverageValue", "Value"] = "AverageValue"


class Hpa(Strict):
    name: str | None = None
    behavior: dict[str, Any]


class Advanced(Strict):
    restoreToOriginalReplicaCount: bool = False
    horizontalPodAutoscalerConfig: Hpa


class ScaledObjectSpec(Strict):
    """keda.sh/v1alpha1, as far as it is used here: https://keda.sh/docs/latest/reference/scaledobject-spec/"""

    scaleTargetRef: Target
    minReplicaCount: int = Field(ge=0)
    maxReplicaCount: int = Field(ge=1)
    pollingInterval: int = Field(default=30, ge=1)
    cooldownPeriod: int = 300
    advanced: Advanced
    triggers: list[Trigger] = Field(min_length=1)


@pytest.mark.parametrize("thing", ALL)
def test_each_object_has_the_form_that_kubernetes_takes(thing: dict[str, Any]) -> None:
    kubernetes_validate.validate(autoscaler(thing) if thing["kind"] == "ScaledObject" else thing, VERSION, strict=True)


def autoscaler(thing: dict[str, Any]) -> dict[str, Any]:
    """What KEDA makes of a ScaledObject: a HorizontalPodAutoscaler of Kubernetes' own."""
    assert thing["apiVersion"] == "keda.sh/v1alpha1"
    spec = ScaledObjectSpec.model_validate(thing["spec"])
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": thing["metadata"],
        "spec": {
            "scaleTargetRef": spec.scaleTargetRef.model_dump(),
            "minReplicas": spec.minReplicaCount,
            "maxReplicas": spec.maxReplicaCount,
            "behavior": spec.advanced.horizontalPodAutoscalerConfig.behavior,
        },
    }


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (("triggers", 0, "metadata", "threshold"), 2),
        (("minReplicas",), 1),
        (("advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleDown", "policies", 0, "type"), None),
    ],
)
def test_a_scaler_that_the_cluster_would_refuse_is_found(where: tuple[str | int, ...], wrong: object) -> None:
    thing = copy.deepcopy(of("ScaledObject")["evaluator"])
    *path, last = where
    inner: Any = thing["spec"]
    for step in path:
        inner = inner[step]
    inner[last] = wrong
    with pytest.raises((ValidationError, kubernetes_validate.ValidationError)):
        kubernetes_validate.validate(autoscaler(thing), VERSION, strict=True)


def test_a_stateful_set_has_its_headless_service() -> None:
    for overlay in OBJECTS:
        for workload in of("StatefulSet", overlay).values():
            service = of("Service", overlay)[workload["spec"]["serviceName"]]["spec"]
            assert service["clusterIP"] == "None"
            assert service["selector"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()


def test_every_process_has_its_workload_its_budget_and_its_account() -> None:
    names = {"api", "control", "teacher-worker", "evaluator", "gpu-trainer"}
    assert {w["metadata"]["name"] for w in WORKLOADS} == names
    assert set(of("PodDisruptionBudget")) >= names
    assert set(of("ServiceAccount")) == names


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w["metadata"]["name"])
def test_every_pod_is_shut_in_and_can_stop_in_time(workload: dict[str, Any]) -> None:
    pod = workload["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert workload["spec"]["selector"]["matchLabels"] == workload["spec"]["template"]["metadata"]["labels"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    own = container["securityContext"]
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"], own["capabilities"]) == (
        True,
        False,
        {"drop": ["ALL"]},
    )
    assert container["readinessProbe"]
    assert container["resources"]["limits"]["memory"]
    is_worker = any(v["name"] == "REFLUX_WORKER_NAME" for v in container["env"])
    assert pod["terminationGracePeriodSeconds"] >= (LONGEST_GRACE_SECONDS if is_worker else 30)
    assert {mount["name"] for mount in container["volumeMounts"]} >= {"scratch", "secrets"}
    given = {
        i["key"]
        for v in pod["volumes"]
        if v["name"] == "secrets"
        for s in v["projected"]["sources"]
        for i in s["secret"]["items"]
    }
    assert ("reflux_database_url" in given) == (workload["metadata"]["name"] in ("api", "control"))
    named = {v["value"].rpartition("/")[2] for v in container["env"] if v["name"].endswith("_FILE")}
    assert named <= given


def test_one_gpu_a_trainer_and_nothing_else_differs() -> None:
    gpu, cpu = of("StatefulSet")["gpu-trainer"], of("StatefulSet", "cpu")["gpu-trainer"]
    [with_gpu], [without] = (w["spec"]["template"]["spec"]["containers"] for w in (gpu, cpu))
    assert with_gpu.pop("resources")["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in without.pop("resources")["limits"]
    assert gpu == cpu


def test_workers_are_scaled_by_their_own_queue() -> None:
    scaled = of("ScaledObject")
    assert set(scaled) == set(SCALED)
    for name, service in SCALED.items():
        assert "replicas" not in of("Deployment")[name]["spec"], "KEDA has it"
        [trigger] = scaled[name]["spec"]["triggers"]
        assert f'queue="{service}"' in trigger["metadata"]["query"]
        assert f'kind=~"{"|".join(kinds(service))}"' in trigger["metadata"]["query"]


def test_only_the_writers_reach_postgres() -> None:
    policies = of("NetworkPolicy")
    assert policies["nothing-else"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    reach = {
        name
        for name, p in policies.items()
        for rule in p["spec"].get("egress", ())
        for port in rule["ports"]
        if port["port"] == 5432
    }
    assert reach == {"api-reaches", "control-reaches"}
    outside = policies["teachers-and-hubs"]["spec"]["podSelector"]["matchExpressions"][0]["values"]
    assert "evaluator" not in outside, "untrusted code has no way out"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("overlay", OBJECTS)
def test_kustomize_renders_what_is_listed(overlay: str) -> None:
    made = subprocess.run(["kubectl", "kustomize", str(KUBERNETES / overlay)], capture_output=True, text=True, check=True)
    rendered = list(yaml.safe_load_all(made.stdout))
    assert sorted((o["kind"], o["metadata"]["name"]) for o in rendered) == sorted(
        (o["kind"], o["metadata"]["name"]) for o in OBJECTS[overlay]
    )
    assert {o["metadata"].get("namespace") for o in rendered if o["kind"] != "Namespace"} == {"reflux"}
