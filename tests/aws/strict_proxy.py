"""A proxy in front of the local AWS that refuses what AWS would refuse.

- IAM: each request of a function is decided from the deployed policies of its role (iam.py). The role follows from the access
  key, which strict_ministack.py gives to functions. Root (the tests themselves) may do everything.
- A key that is missing is 404 only for those who may list the bucket.
- Objects with a KMS key need kms:Decrypt or kms:GenerateDataKey, of the role and of the key's policy.
- Quotas: S3 answers 503 above a rate per prefix, DescribeMapRun is answered once a second, events are at most 256 KiB.
- Faults: 409 on conditional puts (`conflicts` is their share). See fault_proxy.py for others.

strict_ministack.py asks here (`POST /_strict/...`) about what happens inside ministack: calls of functions, work lists, logs,
queues. All that was asked is in `asked`, by role; `refused` lists what was not allowed. `generations` has the policies and the
questions of each deployment.

docs/aws-fidelity.md has a table of what is enforced, with AWS's pages.
"""

import collections
import dataclasses
import json
import random
import threading
import time
from xml.sax.saxutils import escape

from actions import Unknown, asked
from fault_proxy import FaultProxy
from iam import ACCOUNT, Ask, Evaluator, Roles
from local_aws import REGION

XML, JSON = [("Content-Type", "application/xml")], [("Content-Type", "application/x-amz-json-1.0")]
EVENTS_BYTES = 256 * 1024


class Rate:
    """A token bucket for each key."""

    def __init__(self, per_second, burst=None):
        self.per_second, self.burst = per_second, burst or per_second
        self.level, self.lock = {}, threading.Lock()

    def take(self, key):
        """Whether a request is within the rate."""
        with self.lock:
            now = time.monotonic()
            tokens, before = self.level.get(key, (self.burst, now))
            tokens = min(self.burst, tokens + (now - before) * self.per_second)
            # Who waits for exactly as long as it takes is not late.
            within = tokens >= 0.95
            self.level[key] = (tokens - 1 if within else tokens, now)
            return within


def s3_error(status, code, message):
    return status, XML, f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()


def json_error(code, message, status=400):
    return status, JSON, json.dumps({"__type": code, "message": message}).encode()


class StrictProxy(FaultProxy):
    """`deploy` of the tests calls `learn` after each deployment; before the first one, functions may do nothing."""

    def __init__(self, lenient=False):
        """A lenient one records what is not allowed and permits it."""
        super().__init__()
        self.lenient = lenient
        self.evaluator = Evaluator()
        self.roles, self.client = None, None
        self.lock = threading.Lock()
        self.asked, self.refused, self.generations = {}, [], []
        # How often something was over a quota, by the error's name.
        self.throttled = collections.Counter()
        # "Best practices design patterns: optimizing Amazon S3 performance": per partitioned prefix. S3 splits a prefix only
        # under load that lasts, so all keys below the first folder of a bucket are one prefix here.
        self.gets, self.puts = Rate(5_500), Rate(3_500)
        # "Step Functions service quotas", throttling of API actions.
        self.map_runs = Rate(1)
        self.conflicts, self.chance = 0.0, random.Random(1)
        self.deadline = lambda function: None
        self.copies = lambda: 1
        self.key_arns, self.bucket_keys = {}, {}

    def learn(self, aws):
        """Reads the deployed policies, keys and encryption of buckets."""
        self.client = aws.client
        roles = Roles(self.evaluator, aws.client)
        roles.load()
        with self.lock:
            self.roles, self.asked, self.key_arns, self.bucket_keys = roles, {}, {}, {}
            self.generations.append((roles, self.asked))

    def stop(self):
        super().stop()
        self.evaluator.stop()

    # IAM

    def allowed(self, role, asks):
        """The first ask that a role may not do, or None. All are recorded."""
        for ask in asks:
            with self.lock:
                decision = self.roles.decide(role, ask) if self.roles else "ImplicitlyDenied"
                self.asked.setdefault(role, set()).add(ask)
                if decision != "Allowed":
                    self.refused.append((role, ask))
                    if not self.lenient:
                        return ask
        return None

    def role_of(self, request):
        """The role of a request, None for root, "" for credentials that nobody has."""
        key = request.credential[0]
        if key in ("test", ACCOUNT):
            return None
        return self.roles.keys.get(key, "") if self.roles else ""

    def before(self, request):
        """The answer to a request that is refused, or None."""
        if request.path.startswith("/_strict/"):
            return self.inside(request)
        service = request.credential[1]
        if (over := self.over_quota(service, request)) is not None:
            return over
        role = self.role_of(request)
        if role is None:
            return None
        if role == "":
            return denial(service or "s3", "", Ask.of(f"{service or 's3'}:*", "*"))
        try:
            asks = asked(request)
        except Unknown as unknown:
            self.refused.append((role, str(unknown)))
            return 501, XML, f"<Error><Code>NotImplemented</Code><Message>tests/aws/actions.py: {escape(str(unknown))}</Message></Error>".encode()
        if (ask := self.allowed(role, asks)) is not None:
            return denial(service, role, ask)
        if service == "s3" and request.method in ("PUT", "POST") and request.bucket_and_key[1]:
            return self.conflict(request) or self.encrypt(role, request)
        return None

    def after(self, request, status, headers, body):
        """The answer that AWS would give where ministack gives this one."""
        role = self.role_of(request)
        if not role or request.credential[1] != "s3":
            return status, headers, body
        bucket = request.bucket_and_key[0]
        if status == 404 and b"NoSuchBucket" not in body:
            # S3 checks s3:ListBucket without s3:prefix here: the request is no listing.
            if self.allowed(role, [Ask.of("s3:ListBucket", f"arn:aws:s3:::{bucket}")]) is not None:
                return s3_error(403, "AccessDenied", "Access Denied")
        if status in (200, 206) and request.method == "GET":
            found = {name.lower(): value for name, value in headers}
            key = found.get("x-amz-server-side-encryption-aws-kms-key-id")
            if key and (refusal := self.use_key(role, "kms:Decrypt", key)) is not None:
                return refusal
        return status, headers, body

    def forward(self, request):
        """A presigned URL is that of a role, whose key ministack does not know: the signature is left out."""
        path, _, query = request.target.partition("?")
        if "X-Amz-Signature" in request.query:
            kept = [pair for pair in query.split("&") if not pair.startswith("X-Amz-")]
            request = dataclasses.replace(request, target=f"{path}?{'&'.join(kept)}")
        return super().forward(request)

    # KMS

    def encrypt(self, role, request):
        """The refusal of a put if the role may not use the key that the request or its bucket names."""
        key = request.headers.get("x-amz-server-side-encryption-aws-kms-key-id") or self.key_of(request.bucket_and_key[0])
        if key is None:
            return None
        refusal = self.use_key(role, "kms:GenerateDataKey", key)
        if refusal is None and "uploadId" in request.query:
            # "Multipart upload API and permissions": parts are decrypted when they are put together.
            refusal = self.use_key(role, "kms:Decrypt", key)
        return refusal

    def key_of(self, bucket):
        """The key of a bucket's default encryption, or None."""
        if bucket not in self.bucket_keys:
            key, s3 = None, self.client("s3")
            try:
                rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
                key = rules[0]["ApplyServerSideEncryptionByDefault"].get("KMSMasterKeyID")
            except s3.exceptions.ClientError:
                pass
            self.bucket_keys[bucket] = key
        return self.bucket_keys[bucket]

    def use_key(self, role, action, key):
        if key not in self.key_arns:
            kms = self.client("kms")
            arn = kms.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
            # The policy first: another request that finds the key decides by it.
            self.roles.key_policies[arn] = json.loads(kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"])
            self.key_arns[key] = arn
        ask = Ask(action, self.key_arns[key], (("kms:ViaService", f"s3.{REGION}.amazonaws.com"),))
        return None if self.allowed(role, [ask]) is None else denial("s3", role, ask)

    # Quotas and faults

    def over_quota(self, service, request):
        if service == "s3" and request.bucket_and_key[1]:
            rate = self.gets if request.method in ("GET", "HEAD") else self.puts
            if not rate.take((request.bucket_and_key[0], request.bucket_and_key[1].split("/")[0])):
                self.throttled["SlowDown"] += 1
                return s3_error(503, "SlowDown", "Please reduce your request rate.")
        if service == "states" and request.operation == "DescribeMapRun" and not self.map_runs.take("account"):
            self.throttled["ThrottlingException"] += 1
            return json_error("ThrottlingException", "Rate exceeded")
        if service == "events" and request.operation == "PutEvents" and len(request.body) > EVENTS_BYTES:
            return json_error("ValidationException", "Total size of the entries in the request is over the limit.")
        return None

    def conflict(self, request):
        """Another request may have written the key at the same moment: "Conditional write behavior"."""
        conditional = "if-none-match" in request.headers or "if-match" in request.headers
        with self.lock:
            if not conditional or self.chance.random() >= self.conflicts:
                return None
            self.faults += 1
        return s3_error(409, "ConditionalRequestConflict", "The conditional request cannot succeed due to a conflicting operation.")

    # Questions of strict_ministack.py

    def inside(self, request):
        data = json.loads(request.body)
        if request.path == "/_strict/function":
            return 200, JSON, json.dumps({"deadline": self.deadline(data["function"])}).encode()
        if request.path == "/_strict/throttled":
            self.throttled[data["error"]] += 1
            return 200, JSON, b"{}"
        context = lambda pairs: tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in pairs.items()))  # noqa: E731
        asks = [Ask(a["action"], a["resource"], context(a["context"])) for a in data["asks"]]
        if data["principal"].startswith("arn:"):
            refused = self.allowed(data["principal"], asks)
        else:
            decisions = self.evaluator.decide(data["principal"], [], asks, data["policy"])
            refused = next((ask for ask, decision in zip(asks, decisions, strict=True) if decision != "Allowed"), None)
            if refused:
                self.refused.append((data["principal"], refused))
        answer = {"refused": refused and denied_text(data["principal"], refused), "copies": self.copies()}
        return 200, JSON, json.dumps(answer).encode()


def denied_text(role, ask):
    who = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role.rsplit('/', 1)[-1]}" if role.startswith("arn:") else role or "unknown credentials"
    return f"User: {who} is not authorized to perform: {ask.action} on resource: {ask.resource}"


def denial(service, role, ask):
    if service == "s3":
        return s3_error(403, "AccessDenied", denied_text(role, ask))
    return json_error("AccessDeniedException", denied_text(role, ask), 403 if service == "sqs" else 400)
