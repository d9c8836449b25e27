"""Holds the evaluator of policies to the examples of AWS's documentation (IAM User Guide), by page."""

import pytest
from iam import ACCOUNT, Ask, Evaluator

PRINCIPAL = f"arn:aws:sts::{ACCOUNT}:assumed-role/reader/function"
BUCKET, OBJECT = "arn:aws:s3:::amzn-s3-demo-bucket", "arn:aws:s3:::amzn-s3-demo-bucket/home/jane/a.jpg"
ALLOWED, EXPLICIT, IMPLICIT = "Allowed", "ExplicitlyDenied", "ImplicitlyDenied"


@pytest.fixture(scope="module")
def evaluator():
    evaluator = Evaluator()
    yield evaluator
    evaluator.stop()


def allow(action="s3:GetObject", resource="*", effect="Allow", **more):
    return {"Effect": effect, **({"Action": action} if action else {}), **({"Resource": resource} if resource else {}), **more}


def deny(action="s3:GetObject", resource="*", **more):
    return allow(action, resource, "Deny", **more)


def when(operator, key, *values):
    return {"Condition": {operator: {key: list(values)}}}


GET, LIST = Ask.of("s3:GetObject", OBJECT), Ask.of("s3:ListBucket", BUCKET)
TAGS = lambda *names: Ask.of("sqs:TagQueue", f"arn:aws:sqs:us-east-1:{ACCOUNT}:q", aws__TagKeys=names or None)  # noqa: E731
TAG = "sqs:TagQueue"
PREFIX = lambda prefix: Ask.of("s3:ListBucket", BUCKET, s3__prefix=prefix)  # noqa: E731

# (page of the IAM User Guide, what it says, statements, ask, decision)
EXAMPLES = [
    ("reference_policies_evaluation-logic_policy-eval-denyallow", "all requests are denied by default", [], GET, IMPLICIT),
    ("reference_policies_evaluation-logic_policy-eval-denyallow", "an allow overrides the default", [allow()], GET, ALLOWED),
    ("reference_policies_evaluation-logic_policy-eval-denyallow", "an explicit deny overrides an allow", [allow(), deny()], GET, EXPLICIT),
    ("reference_policies_evaluation-logic_policy-eval-denyallow", "in any order", [deny(), allow()], GET, EXPLICIT),
    ("reference_policies_evaluation-logic_policy-eval-denyallow", "a deny whose condition fails denies nothing",
     [allow(), deny(**when("StringEquals", "aws:RequestedRegion", "eu-west-3"))], GET, ALLOWED),
    ("reference_policies_elements_action", "* in the name of an action", [allow("s3:Get*")], GET, ALLOWED),
    ("reference_policies_elements_action", "? stands for one character", [allow("s3:GetObj?ct")], GET, ALLOWED),
    ("reference_policies_elements_action", "the prefix and the action are not case sensitive", [allow("S3:getOBJECT")], GET, ALLOWED),
    ("reference_policies_elements_action", "another action is not allowed", [allow("s3:GetObject")], LIST, IMPLICIT),
    ("reference_policies_elements_notaction", "Allow with NotAction allows all others",
     [allow(None, NotAction="s3:DeleteObject")], GET, ALLOWED),
    ("reference_policies_elements_notaction", "and not the one named",
     [allow(None, NotAction="s3:GetObject")], GET, IMPLICIT),
    ("reference_policies_elements_notaction", "Deny with NotAction denies all others",
     [allow(), deny(None, NotAction="sqs:*")], GET, EXPLICIT),
    ("reference_policies_elements_resource", "* matches within a key, also across /", [allow(resource=f"{BUCKET}/home/*.jpg")], GET, ALLOWED),
    ("reference_policies_elements_resource", "a bucket is not its objects", [allow(resource=BUCKET)], GET, IMPLICIT),
    ("reference_policies_elements_resource", "objects are not their bucket", [allow("s3:ListBucket", f"{BUCKET}/*")], LIST, IMPLICIT),
    ("reference_policies_elements_resource", "resources are case sensitive", [allow(resource=OBJECT.replace("jane", "Jane"))], GET, IMPLICIT),
    ("reference_policies_elements_notresource", "Allow with NotResource", [allow(resource=None, NotResource=f"{BUCKET}/private/*")], GET, ALLOWED),
    ("reference_policies_elements_notresource", "Deny with NotResource",
     [allow(), deny(resource=None, NotResource=f"{BUCKET}/public/*")], GET, EXPLICIT),
    ("reference_policies_elements_condition", "values are a logical OR",
     [allow("s3:ListBucket", **when("StringEquals", "s3:prefix", "b", "a"))], PREFIX("a"), ALLOWED),
    ("reference_policies_elements_condition", "keys are a logical AND", [allow("s3:ListBucket", Condition={
        "StringEquals": {"s3:prefix": "a", "aws:RequestedRegion": "eu-west-3"}})], PREFIX("a"), IMPLICIT),
    ("reference_policies_elements_condition", "operators are a logical AND", [allow("s3:ListBucket", Condition={
        "StringEquals": {"s3:prefix": "a"}, "Bool": {"aws:SecureTransport": "false"}})], PREFIX("a"), IMPLICIT),
    ("reference_policies_elements_condition_operators", "a key that is missing does not match",
     [allow("s3:ListBucket", **when("StringLike", "s3:prefix", "*"))], LIST, IMPLICIT),
    ("reference_policies_elements_condition_operators", "a negated operator matches a missing key",
     [allow("s3:ListBucket", **when("StringNotLike", "s3:prefix", "private/*"))], LIST, ALLOWED),
    ("reference_policies_elements_condition_operators", "negated values are a NOR",
     [allow("s3:ListBucket", **when("StringNotLike", "s3:prefix", "a/*", "private/*"))], PREFIX("private/x"), IMPLICIT),
    ("reference_policies_elements_condition_operators", "StringLike has wildcards",
     [allow("s3:ListBucket", **when("StringLike", "s3:prefix", "home/*"))], PREFIX("home/jane"), ALLOWED),
    ("reference_policies_elements_condition_operators", "StringEquals has none",
     [allow("s3:ListBucket", **when("StringEquals", "s3:prefix", "home/*"))], PREFIX("home/jane"), IMPLICIT),
    ("reference_policies_elements_condition_operators", "StringEquals is case sensitive",
     [allow("s3:ListBucket", **when("StringEquals", "s3:prefix", "Home"))], PREFIX("home"), IMPLICIT),
    ("reference_policies_elements_condition_operators", "...IfExists with a missing key",
     [allow("s3:ListBucket", **when("StringLikeIfExists", "s3:prefix", "home/*"))], LIST, ALLOWED),
    ("reference_policies_elements_condition_operators", "...IfExists with the key",
     [allow("s3:ListBucket", **when("StringLikeIfExists", "s3:prefix", "home/*"))], PREFIX("etc"), IMPLICIT),
    ("reference_policies_elements_condition_operators", "Null true: the key must be missing",
     [allow("s3:ListBucket", **when("Null", "s3:prefix", "true"))], PREFIX("a"), IMPLICIT),
    ("reference_policies_elements_condition_operators", "Null false: the key must be there",
     [allow("s3:ListBucket", **when("Null", "s3:prefix", "false"))], PREFIX("a"), ALLOWED),
    ("reference_policies_elements_condition_operators", "Bool", [allow(**when("Bool", "aws:SecureTransport", "true"))], GET, ALLOWED),
    ("reference_policies_elements_condition_operators", "ArnLike compares each of the six parts",
     [allow("sqs:SendMessage", **when("ArnLike", "aws:SourceArn", "arn:aws:events:*:*:rule/upload*"))],
     Ask.of("sqs:SendMessage", f"arn:aws:sqs:us-east-1:{ACCOUNT}:q", aws__SourceArn=f"arn:aws:events:us-east-1:{ACCOUNT}:rule/uploads"), ALLOWED),
    ("reference_policies_elements_condition_operators", "ArnEquals with another rule",
     [allow("sqs:SendMessage", **when("ArnEquals", "aws:SourceArn", f"arn:aws:events:us-east-1:{ACCOUNT}:rule/a"))],
     Ask.of("sqs:SendMessage", f"arn:aws:sqs:us-east-1:{ACCOUNT}:q", aws__SourceArn=f"arn:aws:events:us-east-1:{ACCOUNT}:rule/b"), IMPLICIT),
    ("reference_policies_elements_condition_operators", "NumericLessThanEquals",
     [allow("s3:ListBucket", **when("NumericLessThanEquals", "s3:max-keys", "10"))], Ask("s3:ListBucket", BUCKET, (("s3:max-keys", "11"),)), IMPLICIT),
    ("reference_policies_condition-single-vs-multi-valued-context-keys", "ForAllValues: every value must match",
     [allow(TAG, **when("ForAllValues:StringEquals", "aws:TagKeys", "team", "cost"))], TAGS("team", "other"), IMPLICIT),
    ("reference_policies_condition-single-vs-multi-valued-context-keys", "ForAllValues: all match",
     [allow(TAG, **when("ForAllValues:StringEquals", "aws:TagKeys", "team", "cost"))], TAGS("team", "cost"), ALLOWED),
    ("reference_policies_condition-single-vs-multi-valued-context-keys", "ForAllValues is true for a missing key",
     [allow(TAG, **when("ForAllValues:StringEquals", "aws:TagKeys", "team"))], TAGS(), ALLOWED),
    ("reference_policies_condition-single-vs-multi-valued-context-keys", "ForAnyValue: one value must match",
     [allow(TAG, **when("ForAnyValue:StringEquals", "aws:TagKeys", "team"))], TAGS("other", "team"), ALLOWED),
    ("reference_policies_condition-single-vs-multi-valued-context-keys", "ForAnyValue is false for a missing key",
     [allow(TAG, **when("ForAnyValue:StringEquals", "aws:TagKeys", "team"))], TAGS(), IMPLICIT),
    ("reference_policies_variables", "a variable in the resource", [allow(resource=f"{BUCKET}/home/${{aws:PrincipalTag/owner}}/*")],
     Ask("s3:GetObject", OBJECT, (("aws:PrincipalTag/owner", "jane"),)), ALLOWED),
    ("reference_policies_variables", "a variable without a value matches nothing",
     [allow(resource=f"{BUCKET}/home/${{aws:PrincipalTag/owner}}/*")], GET, IMPLICIT),
    ("reference_policies_variables", "${*} is an asterisk, not a wildcard", [allow(resource=f"{BUCKET}/home/${{*}}")], GET, IMPLICIT),
]


@pytest.mark.parametrize("page, says, statements, ask, decision", EXAMPLES, ids=[f"{e[0]}: {e[1]}" for e in EXAMPLES])
def test_the_evaluator_decides_as_the_iam_user_guide_says(evaluator, page, says, statements, ask, decision):
    policies = [(f"policy-{i}", {"Version": "2012-10-17", "Statement": [s]}) for i, s in enumerate(statements)]
    assert evaluator.decide(PRINCIPAL, policies, [ask]) == [decision]


def test_the_policy_of_a_resource_counts_too(evaluator):
    """reference_policies_evaluation-logic: within one account, either policy may allow, and a deny in either wins."""
    policy = lambda *statements: {"Version": "2012-10-17", "Statement": list(statements)}  # noqa: E731
    tls = deny("s3:*", [BUCKET, f"{BUCKET}/*"], Principal="*", **when("Bool", "aws:SecureTransport", "false"))
    mine, plain = [("mine", policy(allow()))], Ask("s3:GetObject", OBJECT, (("aws:SecureTransport", "false"),))
    assert evaluator.decide(PRINCIPAL, mine, [GET, plain], policy(tls)) == [ALLOWED, EXPLICIT]
    queue, rule = f"arn:aws:sqs:us-east-1:{ACCOUNT}:q", f"arn:aws:events:us-east-1:{ACCOUNT}:rule/uploads"
    events = allow("sqs:SendMessage", queue, Principal={"Service": "events.amazonaws.com"}, **when("ArnEquals", "aws:SourceArn", rule))
    asks = [Ask.of("sqs:SendMessage", queue, aws__SourceArn=arn) for arn in (rule, rule + "-2")]
    assert evaluator.decide("events.amazonaws.com", [], asks, policy(events)) == [ALLOWED, IMPLICIT]
    assert evaluator.decide("sns.amazonaws.com", [], asks[:1], policy(events)) == [IMPLICIT]
    # A key's policy must allow, also to the owner's roles: "Key policies in AWS KMS".
    key = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    mine = [("mine", policy(allow("kms:Decrypt", key)))]
    owner = allow("kms:*", "*", Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:root"})
    other = allow("kms:*", "*", Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:role/other"})
    assert evaluator.decide(PRINCIPAL, mine, [Ask.of("kms:Decrypt", key)], policy(owner)) == [ALLOWED]
    assert evaluator.decide(PRINCIPAL, mine, [Ask.of("kms:Decrypt", key)], policy(other)) == [IMPLICIT]


def test_an_action_that_aws_does_not_have_is_an_error(evaluator):
    with pytest.raises(ValueError, match="s3:ReadObject"):
        evaluator.decide(PRINCIPAL, [], [Ask.of("s3:ReadObject", OBJECT)])
