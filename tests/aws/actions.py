"""What a request to AWS asks for: the actions, resources and condition keys that IAM decides on.

From AWS's Service Authorization Reference and the permissions that the API pages name. Operations that Pomona and its state
machine do not use are an error (`Unknown`), so that a new one is added here with its permissions.
"""

import dataclasses
import json
import re
import urllib.parse
import xml.etree.ElementTree

from iam import ACCOUNT, Ask
from local_aws import REGION


class Unknown(Exception):
    """A request that this file does not know."""


@dataclasses.dataclass
class Request:
    """A request as it arrived. The names of headers are lower case."""

    method: str
    target: str
    headers: dict
    body: bytes

    @property
    def path(self):
        return urllib.parse.unquote(self.target.partition("?")[0])

    @property
    def query(self):
        return {name: values[0] for name, values in
                urllib.parse.parse_qs(self.target.partition("?")[2], keep_blank_values=True).items()}

    @property
    def credential(self):
        """(access key, service) of the signature, or of that of a presigned URL; ("", "") without one."""
        signed = self.headers.get("authorization") or f"Credential={self.query.get('X-Amz-Credential', '')}"
        found = re.search(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/aws4_request", signed)
        return found.groups() if found else ("", "")

    @property
    def function(self):
        """The function of the user agent, or None."""
        found = re.search(r"app/(\S+)", self.headers.get("user-agent", ""))
        return found.group(1) if found else None

    @property
    def bucket_and_key(self):
        bucket, _, key = self.path.removeprefix("/").partition("/")
        return bucket, key

    @property
    def operation(self):
        """The operation of a JSON service, for example DescribeMapRun."""
        return self.headers.get("x-amz-target", "").rpartition(".")[2]


def asked(request):
    """The asks of a request. All must be allowed."""
    service = request.credential[1]
    if service == "s3":
        return s3(request)
    data = json.loads(request.body or b"{}") if "json" in request.headers.get("content-type", "") else {}
    if service == "states":
        return states(request.operation, data)
    if service == "sqs" and request.operation:
        return [Ask.of(f"sqs:{request.operation}", queue_arn(data["QueueUrl"]))]
    if service == "events" and request.operation == "PutEvents":
        buses = {entry.get("EventBusName", "default").rpartition("/")[2] for entry in data["Entries"]}
        sources = tuple(sorted({entry["Source"] for entry in data["Entries"]}))
        return [Ask("events:PutEvents", f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{bus}", (("events:source", sources),))
                for bus in sorted(buses)]
    if service == "logs":
        return [Ask.of(f"logs:{request.operation}", log_arn(data["logGroupName"], data.get("logStreamName", "")))]
    if service == "monitoring" and request.operation == "PutMetricData":
        return [Ask("cloudwatch:PutMetricData", "*", (("cloudwatch:namespace", data["Namespace"]),))]
    if service == "lambda" and (found := re.fullmatch(r"/2015-03-31/functions/([^/]+)/invocations", request.path)):
        return [Ask.of("lambda:InvokeFunction", function_arn(found.group(1)))]
    raise Unknown(f"{service} {request.method} {request.target} {request.operation}")


def queue_arn(url):
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{url.rpartition('/')[2]}"


def log_arn(group, stream=""):
    return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:log-stream:{stream}"


def function_arn(name):
    return name if name.startswith("arn:") else f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


def states(operation, data):
    """Step Functions: "Actions, resources, and condition keys for AWS Step Functions"."""
    resource = {
        "StartExecution": "stateMachineArn", "DescribeStateMachine": "stateMachineArn", "ListExecutions": "stateMachineArn",
        "DescribeExecution": "executionArn", "StopExecution": "executionArn", "GetExecutionHistory": "executionArn",
        "ListMapRuns": "executionArn", "RedriveExecution": "executionArn", "DescribeMapRun": "mapRunArn",
    }.get(operation)
    if operation == "ListStateMachines":
        return [Ask.of("states:ListStateMachines", "*")]
    if resource is None:
        raise Unknown(f"states:{operation}")
    return [Ask.of(f"states:{operation}", data[resource])]


def listing(query):
    """The condition keys of a listing; a request that is no listing has none of them, also where S3 checks s3:ListBucket for it."""
    names = {"prefix": "s3:prefix", "delimiter": "s3:delimiter", "max-keys": "s3:max-keys"}
    return tuple(sorted((key, query[name]) for name, key in names.items() if name in query))


def s3(request):
    """S3: "Required permissions for Amazon S3 API operations"."""
    bucket, key = request.bucket_and_key
    query, method = request.query, request.method
    arn = f"arn:aws:s3:::{bucket}"
    if not bucket:
        return [Ask.of("s3:ListAllMyBuckets", "*")]
    if not key:
        if method == "POST" and "delete" in query:
            return [*batch_delete(arn, request.body)]
        reads = {"versions": "s3:ListBucketVersions", "uploads": "s3:ListBucketMultipartUploads", "location": "s3:GetBucketLocation",
                 "versioning": "s3:GetBucketVersioning", "encryption": "s3:GetEncryptionConfiguration"}
        action = next((action for name, action in reads.items() if name in query), "s3:ListBucket")
        if method == "GET":
            return [Ask(action, arn, listing(query) if action.startswith("s3:ListBucket") else ())]
        if method == "HEAD":
            return [Ask.of("s3:ListBucket", arn)]
        raise Unknown(f"s3 {method} {request.target}")
    return [*s3_object(request, f"{arn}/{key}")]


def s3_object(request, arn):
    query, headers = request.query, request.headers
    version = "Version" if "versionId" in query else ""
    match request.method:
        case "GET" | "HEAD" if "uploadId" in query:
            yield Ask.of("s3:ListMultipartUploadParts", arn)
        case "GET" | "HEAD" if "tagging" in query or "acl" in query or "attributes" in query:
            raise Unknown(f"s3 {request.method} {request.target}")
        case "GET" | "HEAD":
            yield Ask.of(f"s3:GetObject{version}", arn)
        case "PUT" | "POST" if {"tagging", "acl", "restore", "select", "retention", "legal-hold"} & set(query):
            raise Unknown(f"s3 {request.method} {request.target}")
        case "PUT" | "POST":
            if source := headers.get("x-amz-copy-source"):
                path, _, wanted = urllib.parse.unquote(source).removeprefix("/").partition("?versionId=")
                yield Ask.of("s3:GetObjectVersion" if wanted else "s3:GetObject", f"arn:aws:s3:::{path}")
            yield Ask.of("s3:PutObject", arn)
            if "x-amz-tagging" in headers:
                yield Ask.of("s3:PutObjectTagging", arn)
            if headers.get("if-match", "*") != "*":
                # As for deletes; the page about conditional writes names no permission.
                yield Ask.of("s3:GetObject", arn)
        case "DELETE" if "uploadId" in query:
            yield Ask.of("s3:AbortMultipartUpload", arn)
        case "DELETE":
            yield Ask.of(f"s3:DeleteObject{version}", arn)
            if headers.get("if-match", "*") != "*":
                # "How to perform conditional deletes": s3:DeleteObject and s3:GetObject.
                yield Ask.of("s3:GetObject", arn)
        case _:
            raise Unknown(f"s3 {request.method} {request.target}")


def batch_delete(arn, body):
    """The asks of DeleteObjects. S3 decides for each object; here, all must be allowed."""
    plain = lambda tag: tag.rpartition("}")[2]  # noqa: E731
    for item in xml.etree.ElementTree.fromstring(body):
        fields = {plain(field.tag): field.text for field in item}
        if plain(item.tag) == "Object":
            yield Ask.of(f"s3:DeleteObject{'Version' if 'VersionId' in fields else ''}", f"{arn}/{fields['Key']}")
