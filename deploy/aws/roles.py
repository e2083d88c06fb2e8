"""Make the two IAM roles of ray_cluster.yaml, with no more rights than its nodes use.

    python deploy/aws/roles.py --reads my-videos --writes my-runs

    headrace-head    starts, tags and ends instances of this cluster, and hands headrace-node to them
    headrace-node    reads the buckets with samples, reads and writes those with checkpoints; so may the head

Run it once, with credentials that may make roles, and again when the buckets change. Roles that exist are brought up to
date; nothing is removed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import boto3
import tyro
from botocore.exceptions import ClientError

HEAD, NODE = "headrace-head", "headrace-node"
TAG = "ray-cluster-name"
"""With which Ray marks the instances of a cluster."""

_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


@dataclass(frozen=True)
class Options:
    """Make the IAM roles of ray_cluster.yaml, or bring them up to date."""

    reads: tuple[str, ...] = ()
    """Buckets with samples."""

    writes: tuple[str, ...] = ()
    """Buckets that checkpoints and shards are written to."""

    cluster: str = "headrace"
    """`cluster_name` of ray_cluster.yaml: only its instances can be ended."""

    show: bool = False
    """Print the policies and change nothing."""


def starts_instances(account: str, cluster: str) -> dict[str, Any]:
    """Return the policy of the head: it runs the autoscaler.

    Args:
        account: number of the AWS account.
        cluster: name of the cluster.
    """
    instances = f"arn:aws:ec2:*:{account}:instance/*"
    parts = ("network-interface", "security-group", "subnet", "volume", "key-pair")
    named = {f"aws:RequestTag/{TAG}": cluster}
    return _policy(
        _allow(["ec2:DescribeInstances"], ["*"]),
        _allow(["ec2:RunInstances"], [instances], {"StringEquals": named}),
        _allow(["ec2:RunInstances"], [f"arn:aws:ec2:*:{account}:{part}/*" for part in parts]),
        _allow(["ec2:RunInstances"], ["arn:aws:ec2:*::image/*"]),
        _allow(["ec2:CreateTags"], [instances], {"StringEquals": {"ec2:CreateAction": "RunInstances"}}),
        _allow(
            ["ec2:CreateTags", "ec2:TerminateInstances"],
            [instances],
            {"StringEquals": {f"aws:ResourceTag/{TAG}": cluster}},
        ),
        _allow(["ssm:GetParameters"], ["arn:aws:ssm:*::parameter/aws/service/*"]),  # which image is the newest
        _allow(
            ["iam:PassRole"],
            [f"arn:aws:iam::{account}:role/{NODE}"],
            {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        ),
    )


def uses_buckets(reads: tuple[str, ...], writes: tuple[str, ...]) -> dict[str, Any]:
    """Return the policy of all nodes.

    Args:
        reads: buckets with samples.
        writes: buckets with checkpoints, which are read as well.
    """
    both = [*reads, *(bucket for bucket in writes if bucket not in reads)]
    statements = [
        _allow(["s3:ListBucket", "s3:GetBucketLocation"], [f"arn:aws:s3:::{bucket}" for bucket in both]),
        _allow(["s3:GetObject"], [f"arn:aws:s3:::{bucket}/*" for bucket in both]),
    ]
    if writes:
        changes = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        statements.append(_allow(changes, [f"arn:aws:s3:::{bucket}/*" for bucket in writes]))
    return _policy(*statements)


def make_role(iam: Any, name: str, policies: dict[str, dict[str, Any]]) -> None:
    """Make a role and the instance profile of its name, or bring them up to date.

    Args:
        iam: boto3's client.
        name: of both.
        policies: the role's inline policies by name.
    """
    _unless_there(iam.create_role, RoleName=name, AssumeRolePolicyDocument=json.dumps(_TRUST))
    for policy, document in policies.items():
        iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(document))
    _unless_there(iam.create_instance_profile, InstanceProfileName=name)
    if not iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def main(options: Options) -> None:
    """Make both roles, or show what they would be allowed."""
    account = "ACCOUNT" if options.show else boto3.client("sts").get_caller_identity()["Account"]
    buckets = {"buckets": uses_buckets(options.reads, options.writes)} if options.reads or options.writes else {}
    roles = {HEAD: {"instances": starts_instances(account, options.cluster), **buckets}, NODE: buckets}
    if options.show:
        print(json.dumps(roles, indent=2))
        return
    for name, policies in roles.items():
        make_role(boto3.client("iam"), name, policies)
        print(f"{name}: {', '.join(policies) or 'no rights'}")


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(actions: list[str], resources: list[str], condition: dict[str, Any] | None = None) -> dict[str, Any]:
    statement: dict[str, Any] = {"Effect": "Allow", "Action": actions, "Resource": resources}
    return statement if condition is None else {**statement, "Condition": condition}


def _unless_there(create: Any, **what: str) -> None:
    try:
        create(**what)
    except ClientError as error:
        if error.response["Error"]["Code"] != "EntityAlreadyExists":
            raise


if __name__ == "__main__":
    main(tyro.cli(Options))
