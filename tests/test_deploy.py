"""What lies in deploy/: resources that KubeRay and Kubernetes take, tested versions, options that exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from headrace.cli import RunOptions, parse
from jobs.recipes import DEFAULT, RECIPES

ROOT = Path(__file__).resolve().parent.parent
KUBERAY = ROOT / "deploy" / "kuberay"


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


TEXT, TRUTH, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
VERSION = {"const": "ray.io/v1"}
METADATA = _object("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
HEAD = _object("template", rayStartParams=TEXTS, template={"type": "object"}, serviceType=TEXT, enableIngress=TRUTH)
GROUP = _object(
    "groupName minReplicas maxReplicas template",
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    suspend=TRUTH,
    rayStartParams=TEXTS,
    template={"type": "object"},
)
CLUSTER = _object(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=_object(mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=_object(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        image=TEXT,
        imagePullPolicy=TEXT,
    ),
    headServiceAnnotations=TEXTS,
    suspend=TRUTH,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": GROUP},
)
JOB = _object(
    "entrypoint",
    entrypoint=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    clusterSelector=TEXTS,
    rayClusterSpec=CLUSTER,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterConfig=_object(backoffLimit=COUNT),
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=TRUTH,
    suspend=TRUTH,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    metadata=TEXTS,
)
SCHEMAS = {
    kind: _object("apiVersion kind metadata spec", apiVersion=VERSION, kind={}, metadata=METADATA, spec=spec)
    for kind, spec in {"RayCluster": CLUSTER, "RayJob": JOB}.items()
}
"""Of ray.io/v1, as its types declare it, but for the pods, which Kubernetes' own schema judges:
https://github.com/ray-project/kuberay/tree/master/ray-operator/apis/ray/v1."""


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KUBERAY / name).read_text())
    return found


def pinned(package: str) -> str:
    [version] = re.findall(rf"(?m)^{package}==([\w.]+)", (ROOT / "constraints.txt").read_text())
    return str(version)


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_pods_are_what_kubernetes_takes(version: str) -> None:
    spec = loaded("cluster.yaml")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, version, strict=True)
        pod["spec"]["containers"][0]["env_from"] = []
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, version, strict=True)


def test_decode_pods_have_what_decoders_take() -> None:
    groups = {group["groupName"]: group for group in loaded("cluster.yaml")["spec"]["workerGroupSpecs"]}
    assert json.loads(json.loads(groups["decode"]["rayStartParams"]["resources"])) == {"decode": 30}
    assert groups["train"]["rayStartParams"] == {}
    assert "--data.decoder-resource decode" in loaded("job.yaml")["spec"]["entrypoint"]


@pytest.mark.parametrize("name", ["cluster.yaml", "job.yaml"])
def test_resources_are_what_kuberay_takes(name: str) -> None:
    resource = loaded(name)
    jsonschema.validate(resource, SCHEMAS[resource["kind"]])
    resource["spec"]["replicas"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(resource, SCHEMAS[resource["kind"]])


def test_the_cluster_has_a_head_that_coordinates_and_groups_with_bounds() -> None:
    spec = loaded("cluster.yaml")["spec"]
    assert spec["rayVersion"] == pinned("ray")
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert groups.keys() == {"train", "decode"}
    for group in groups.values():
        assert group["minReplicas"] == 0 < group["maxReplicas"]
    for group in (spec["headGroupSpec"], *groups.values()):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"]
    gpus = {name: "nvidia.com/gpu" in str(group) for name, group in groups.items()}
    assert gpus == {"train": True, "decode": False}


def test_the_job_runs_a_recipe_with_options_that_exist() -> None:
    job, cluster = loaded("job.yaml"), loaded("cluster.yaml")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[:3] == ["python", "-m", "jobs.train"]
    recipe, options = parse(command[3:], RECIPES, DEFAULT, "train.py", "", RunOptions())
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    cpus = int(groups["decode"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    assert recipe.data.pool(spare_cpus=1).most <= cpus * groups["decode"]["maxReplicas"]
    gpus = groups["train"]["template"]["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"]
    assert recipe.train.workers <= int(gpus) * groups["train"]["maxReplicas"]
    assert str(options.output).startswith("/shared/")


def test_the_container_file_pins_torch_and_copies_what_there_is() -> None:
    text = (ROOT / "deploy" / "Containerfile").read_text()
    assert f"torch=={pinned('torch')}" in text
    for line in re.findall(r"(?m)^COPY (?:--chown=ray )?(.+)$", text):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
