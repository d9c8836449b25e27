"""Whether a role may do something, decided from its deployed policies as IAM does.

The evaluator is @cloud-copilot/iam-simulate (npm, AGPL) in a Node process of its own, which only the tests start. It knows
the actions, resource types and condition keys of AWS's Service Authorization Reference. test_iam.py holds it to the examples
of AWS's documentation. ministack's evaluator is not used: it has no policy variables and is private to ministack.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import subprocess
import threading

from local_aws import REGION, VENVS

ACCOUNT = "000000000000"


@dataclasses.dataclass(frozen=True)
class Ask:
    """An action on a resource, with the condition keys that the request has. `context` is a tuple of pairs, so that it can be
    in a set; the value of a key with several values is a tuple."""

    action: str
    resource: str
    context: tuple = ()

    @classmethod
    def of(cls, action, resource, **context):
        """The names of condition keys have `__` instead of `:`, for example s3__prefix="a/"."""
        pairs = ((name.replace("__", ":"), value) for name, value in context.items() if value is not None)
        return cls(action, resource, tuple(sorted(pairs)))


def access_key(role_arn):
    """The access key that the local Lambda gives the functions of a role; AWS's is as random as a hash."""
    return "ASIA" + hashlib.sha256(role_arn.encode()).hexdigest()[:16].upper()


class Evaluator:
    """The Node process. Decisions are "Allowed", "ExplicitlyDenied" or "ImplicitlyDenied"."""

    def __init__(self):
        command = ["node", pathlib.Path(__file__).with_name("evaluate.cjs"), (VENVS / "npm").resolve()]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lock = threading.Lock()

    def decide(self, principal, policies, asks, resource_policy=None, boundary=None):
        """A decision per ask. `policies` is a list of (name, document), `boundary` the document of a permissions boundary."""
        question = {
            "principal": principal, "account": ACCOUNT, "resourcePolicy": resource_policy, "boundary": boundary,
            "policies": [{"name": name, "policy": document} for name, document in policies],
            "asks": [{"action": a.action, "resource": a.resource, "context": keys(principal, a)} for a in asks],
        }
        with self.lock:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the evaluator of policies has ended")
        results = json.loads(line)
        for ask, result in zip(asks, results, strict=True):
            if "error" in result:
                raise ValueError(f"{ask}: {result['error']}")
        return [result["result"] for result in results]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)


def keys(principal, ask):
    """The condition keys of a request. The local AWS has no TLS, but the requests that it stands for have."""
    context = {"aws:SecureTransport": "true", "aws:RequestedRegion": REGION}
    if principal.startswith("arn:"):
        context |= {"aws:PrincipalAccount": ACCOUNT, "aws:ResourceAccount": ACCOUNT}
    return context | {name: list(value) if isinstance(value, tuple) else value for name, value in ask.context}


class Roles:
    """The roles of an account and its resource policies, as they are deployed: SAM has made its roles, and CloudFormation has
    resolved parameters and conditions."""

    def __init__(self, evaluator, client):
        self.evaluator, self.client = evaluator, client
        self.policies, self.boundaries, self.bucket_policies = {}, {}, {}
        # Of keys that were used, by ARN.
        self.key_policies = {}
        self.keys, self.known = {}, {}

    def load(self):
        """Reads all roles; to be called after each deployment."""
        iam = self.client("iam")
        policies, boundaries = {}, {}

        def managed(arn):
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            return iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]

        for role in (r for page in iam.get_paginator("list_roles").paginate() for r in page["Roles"]):
            name, found = role["RoleName"], []
            for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
                found.append((policy, iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]))
            for attached in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
                found.append((attached["PolicyName"], managed(attached["PolicyArn"])))
            policies[role["Arn"]] = found
            if boundary := iam.get_role(RoleName=name)["Role"].get("PermissionsBoundary"):
                boundaries[role["Arn"]] = managed(boundary["PermissionsBoundaryArn"])
        s3, buckets = self.client("s3"), {}
        for bucket in s3.list_buckets()["Buckets"]:
            try:
                buckets[bucket["Name"]] = json.loads(s3.get_bucket_policy(Bucket=bucket["Name"])["Policy"])
            except s3.exceptions.ClientError:
                buckets[bucket["Name"]] = None
        self.policies, self.boundaries, self.bucket_policies, self.known = policies, boundaries, buckets, {}
        self.keys = {access_key(arn): arn for arn in policies}

    def resource_policy(self, ask):
        """The policy of the bucket or key that an ask is about. Other policies are given by the caller."""
        if ask.resource.startswith("arn:aws:s3:::"):
            return self.bucket_policies.get(ask.resource.removeprefix("arn:aws:s3:::").split("/")[0])
        return self.key_policies.get(ask.resource)

    def decide(self, role, ask):
        """The decision for a role, remembered until the next deployment."""
        if (role, ask) not in self.known:
            policies, boundary = self.policies.get(role, []), self.boundaries.get(role)
            self.known[role, ask] = self.evaluator.decide(session(role), policies, [ask], self.resource_policy(ask), boundary)[0]
        return self.known[role, ask]

    def statements(self, role):
        """Yields (policy, index, statement) for all statements of a role."""
        for policy, document in self.policies[role]:
            found = document["Statement"]
            for index, statement in enumerate(found if isinstance(found, list) else [found]):
                yield policy, index, statement

    def parts(self, role):
        """Yields (sid, part, removed, policies) for all that may be left out of a role's policies: each statement (part None),
        and each action or resource of a statement that has several. `removed` is a statement of what is left out; `policies` are
        the role's without it."""
        for policy, index, statement in self.statements(role):
            sid = statement.get("Sid", f"{policy}[{index}]")
            if statement["Effect"] == "Deny":
                continue
            yield sid, None, statement, self.without(role, policy, index)
            for element in ("Action", "Resource"):
                values = statement.get(element)
                for value in values if isinstance(values, list) and len(values) > 1 else []:
                    rest = {**statement, element: [v for v in values if v != value]}
                    yield sid, value, {**statement, element: [value]}, self.without(role, policy, index, rest)

    def needed(self, role, asks):
        """A dictionary (sid, part) -> whether the role could not do without it all that it was seen to do."""
        asks = sorted((ask for ask in asks if self.decide(role, ask) == "Allowed"), key=repr)
        found = {}
        for sid, part, removed, policies in self.parts(role):
            # Only what a statement allows can be denied without it. The evaluator decides on the rest.
            concerned = [ask for ask in asks if concerns(removed, ask)]
            found[sid, part] = any(self.denied(role, policies, concerned[i: i + 50]) for i in range(0, len(concerned), 50))
        return found

    def without(self, role, policy, index, replacement=None):
        """The policies of a role with one statement removed, or replaced."""
        changed = []
        for name, document in self.policies[role]:
            statements = document["Statement"]
            statements = list(statements) if isinstance(statements, list) else [statements]
            if name == policy:
                statements[index: index + 1] = [replacement] if replacement else []
            if statements:
                changed.append((name, {**document, "Statement": statements}))
        return changed

    def denied(self, role, policies, asks):
        """The asks that these policies do not allow to a role."""
        by_policy = {}
        for ask in asks:
            by_policy.setdefault(json.dumps(self.resource_policy(ask)), []).append(ask)
        found = []
        for policy, group in by_policy.items():
            results = self.evaluator.decide(session(role), policies, group, json.loads(policy), self.boundaries.get(role))
            found += [ask for ask, result in zip(group, results, strict=True) if result != "Allowed"]
        return found


def concerns(statement, ask):
    """Whether an action and a resource of a statement match an ask; its conditions are not looked at."""
    values = lambda element: value if isinstance(value := statement.get(element, "*"), list) else [value]  # noqa: E731
    like = lambda pattern: re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")  # noqa: E731
    return (any(re.fullmatch(like(pattern), ask.action, re.IGNORECASE) for pattern in values("Action"))
            and any(re.fullmatch(like(pattern), ask.resource, re.DOTALL) for pattern in values("Resource")))


def session(role):
    """The principal of a function that has assumed a role."""
    return f"arn:aws:sts::{ACCOUNT}:assumed-role/{role.rsplit('/', 1)[-1]}/function"
