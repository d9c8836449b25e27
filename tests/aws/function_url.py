"""A client of a function URL on the local AWS, which takes it as a path."""

import json
import urllib.error
import urllib.request

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from local_aws import REGION


class FunctionUrl:
    """Sends requests that are signed as AuthType AWS_IAM wants it, or are not."""

    def __init__(self, aws, url, signed=True):
        """`url` is that of the stack's outputs: https://<id>.lambda-url.<region>.on.aws/"""
        self.base = f"{aws.endpoint}/_aws/lambda-url/{url.removeprefix('https://').partition('.')[0]}"
        self.signed = signed

    def ask(self, method, path, body=None, kind="image/jpeg"):
        """(status, JSON) of a request."""
        request = AWSRequest(method, self.base + path, data=body, headers={"Content-Type": kind} if body is not None else {})
        if self.signed:
            SigV4Auth(Credentials("test", "test"), "lambda", REGION).add_auth(request)
        status, text = send(urllib.request.Request(request.url, body, dict(request.headers), method=method))
        return status, json.loads(text)

    def get(self, path):
        return self.ask("GET", path)

    def post(self, path, body, kind="image/jpeg"):
        return self.ask("POST", path, body, kind)


def send(request):
    """(status, text) of a request."""
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def put(url, body):
    """Uploads to a presigned URL; (status, text)."""
    return send(urllib.request.Request(url, body, {"Content-Type": ""}, method="PUT"))
