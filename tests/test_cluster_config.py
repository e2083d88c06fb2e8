"""ray_cluster.yaml against Ray's own schema and loader, and against a mocked EC2: as far as `ray up` gets there."""

from __future__ import annotations

import fnmatch
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.client import BaseClient
from moto import mock_aws
from ray.autoscaler._private.aws import utils
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "ray_cluster.yaml"
GOOGLE = ROOT / "deploy" / "gcp" / "ray_cluster.yaml"
ROLES = runpy.run_path(str(ROOT / "deploy" / "aws" / "roles.py"))
REGION = "us-west-2"


def loaded(path: Path = CONFIG) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


@pytest.mark.parametrize("path", [CONFIG, GOOGLE], ids=["aws", "gcp"])
def test_it_is_what_ray_up_accepts(path: Path) -> None:
    config = loaded(path)
    validate_config(prepare_config(config))
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert sum(node.get("max_workers", 0) for node in types.values()) <= config["max_workers"]


def test_google_cloud_differs_in_its_machines_only() -> None:
    aws, google = loaded(), loaded(GOOGLE)
    own = {"provider", "available_node_types", "head_setup_commands", "initialization_commands"}
    assert {key: aws[key] for key in aws.keys() - own} == {key: google[key] for key in google.keys() - own}
    for name, group in aws["available_node_types"].items():
        there = google["available_node_types"][name]
        assert {**group, "node_config": {}} == {**there, "node_config": {}}


@pytest.mark.parametrize("path", [CONFIG, GOOGLE], ids=["aws", "gcp"])
def test_only_decode_nodes_decode(path: Path) -> None:
    types = loaded(path)["available_node_types"]
    assert {name for name, group in types.items() if "decode" in group["resources"]} == {"decoder"}
    assert types["decoder"]["resources"]["decode"] == types["decoder"]["resources"]["CPU"]


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """A mocked Amazon with the images that the configuration names; yields the calls that are made to it."""
    calls: list[tuple[str, dict[str, Any]]] = []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("HOME", str(tmp_path))  # a key pair is written there
    for cached in vars(utils).values():
        getattr(cached, "cache_clear", lambda: None)()
    made = BaseClient._make_api_call

    def recorded(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        calls.append((f"{client.meta.service_model.service_name}:{operation}", parameters))
        return made(client, operation, parameters)

    with mock_aws():
        monkeypatch.setattr(BaseClient, "_make_api_call", recorded)
        yield calls


def make_roles() -> None:
    ROLES["main"](ROLES["Options"](reads=("videos",), writes=("runs",)))


def bootstrapped() -> dict[str, Any]:
    """Return the configuration as `ray up` completes it before it starts the head."""
    config: dict[str, Any] = bootstrap_aws(prepare_config(loaded()))
    return config


def test_the_head_starts_trains_and_ends_nodes_with_no_more_rights_than_it_was_given(
    amazon: list[tuple[str, dict[str, Any]]],
) -> None:
    make_roles()
    config = bootstrapped()
    types = config["available_node_types"]
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    del amazon[:]  # what follows is what the head does
    for name in ("trainer", "decoder"):
        tags = {"ray-node-type": "worker", "ray-user-node-type": name, "ray-node-status": "uninitialized"}
        provider.create_node(types[name]["node_config"], tags, 1)
    nodes = provider.non_terminated_nodes({"ray-user-node-type": "decoder"})
    assert len(nodes) == 1
    provider.set_node_tags(nodes[0], {"ray-node-status": "up-to-date"})
    provider._update_node_tags()
    assert provider.internal_ip(nodes[0])
    provider.terminate_nodes(nodes)
    assert provider.non_terminated_nodes({"ray-user-node-type": "decoder"}) == []

    policies = boto3.client("iam").get_role_policy(RoleName="headrace-head", PolicyName="instances")
    statements = policies["PolicyDocument"]["Statement"]
    may = {action for statement in statements for action in statement["Action"]}
    done = {operation for operation, _ in amazon if not operation.startswith("iam:")}
    assert done <= may, "the head would be refused"
    assert may - done == {"iam:PassRole", "ssm:GetParameters"}, "what EC2 asks on its behalf, and nothing else"
    started = [parameters for operation, parameters in amazon if operation == "ec2:RunInstances"]
    decoder = next(asked for asked in started if asked["InstanceType"] == "c7i.8xlarge")
    assert decoder["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert all(asked["IamInstanceProfile"] == {"Name": "headrace-node"} for asked in started)
    for asked in started:
        [tags] = [spec["Tags"] for spec in asked["TagSpecifications"] if spec["ResourceType"] == "instance"]
        assert {"Key": ROLES["TAG"], "Value": "headrace"} in tags, "without it, the policy refuses the start"


@pytest.mark.usefixtures("amazon")
def test_nothing_but_ssh_is_open_to_the_world() -> None:
    make_roles()
    config = bootstrapped()
    nodes = [kind["node_config"] for kind in config["available_node_types"].values()]
    groups = {group for node in nodes for group in node["SecurityGroupIds"]}
    rules = [
        rule
        for group in boto3.client("ec2").describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
        for rule in group["IpPermissions"]
    ]
    world = [rule for rule in rules if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in world] == [(22, 22)]
    inside = [rule for rule in rules if not rule["IpRanges"]]
    assert all({pair["GroupId"] for pair in rule["UserIdGroupPairs"]} <= groups for rule in inside)
    assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])


@pytest.mark.usefixtures("amazon")
def test_roles_are_brought_up_to_date_and_reach_their_buckets_only() -> None:
    make_roles()
    ROLES["main"](ROLES["Options"](reads=("videos", "more"), writes=("runs",)))
    iam = boto3.client("iam")
    for role in ("headrace-head", "headrace-node"):
        document = iam.get_role_policy(RoleName=role, PolicyName="buckets")["PolicyDocument"]
        assert may(document, "s3:GetObject", "arn:aws:s3:::more/a.tar")
        assert may(document, "s3:PutObject", "arn:aws:s3:::runs/one/step")
        assert not may(document, "s3:PutObject", "arn:aws:s3:::videos/a.tar")
        assert not may(document, "s3:GetObject", "arn:aws:s3:::another/a.tar")
        profile = iam.get_instance_profile(InstanceProfileName=role)["InstanceProfile"]
        assert [found["RoleName"] for found in profile["Roles"]] == [role]


def test_the_policies_can_be_read_before_they_are_made(
    amazon: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    ROLES["main"](ROLES["Options"](reads=("videos",), show=True))
    assert json.loads(capsys.readouterr().out).keys() == {"headrace-head", "headrace-node"}
    assert amazon == []


def may(document: dict[str, Any], action: str, resource: str) -> bool:
    """Say whether a policy allows something, conditions apart."""
    return any(
        action in statement["Action"] and any(fnmatch.fnmatch(resource, pattern) for pattern in statement["Resource"])
        for statement in document["Statement"]
    )
