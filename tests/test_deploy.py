"""What lies in deploy/: the fields that KubeRay documents, the versions that are tested, options that exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from headrace.cli import RunOptions, parse
from jobs.recipes import DEFAULT, RECIPES

ROOT = Path(__file__).resolve().parent.parent
KUBERAY = ROOT / "deploy" / "kuberay"
FIELDS = {
    "RayCluster": {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"}
    | {"headGroupSpec", "workerGroupSpecs"},
    "RayJob": {"clusterSelector", "submissionMode", "backoffLimit", "entrypoint", "runtimeEnvYAML"},
    "group": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    "autoscalerOptions": {"version", "idleTimeoutSeconds", "upscalingMode"},
}
"""Of ray.io/v1, as far as they are used: https://ray-project.github.io/kuberay/reference/api/."""


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
def test_only_fields_that_exist(name: str) -> None:
    resource = loaded(name)
    assert resource["apiVersion"] == "ray.io/v1"
    assert resource["spec"].keys() <= FIELDS[resource["kind"]]


def test_the_cluster_has_a_head_that_coordinates_and_groups_with_bounds() -> None:
    spec = loaded("cluster.yaml")["spec"]
    assert spec["rayVersion"] == pinned("ray")
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["autoscalerOptions"].keys() <= FIELDS["autoscalerOptions"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert groups.keys() == {"train", "decode"}
    for group in groups.values():
        assert group.keys() <= FIELDS["group"]
        assert group["minReplicas"] == 0 < group["maxReplicas"]
    for group in (spec["headGroupSpec"], *groups.values()):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
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
