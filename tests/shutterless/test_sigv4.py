import calendar
import time

import botocore.auth
import botocore.session
import pytest
from botocore.awsrequest import AWSRequest
from hypothesis import given
from hypothesis import strategies as st

from shutterless.sigv4 import Credentials, Signer, rds_token, target

# What AWS published: the signature test suite, and the S3 API's examples of signed requests.
SUITE = Signer(service="service", region="us-east-1",
               credentials=Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))
SUITE_S = calendar.timegm((2015, 8, 30, 12, 36, 0))
S3 = Signer(service="s3", region="us-east-1",
            credentials=Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"))
S3_S = calendar.timegm((2013, 5, 24, 0, 0, 0))
BUCKET = "examplebucket.s3.amazonaws.com"


def signature(headers: dict[str, str]) -> str:
    return headers["authorization"].rpartition("Signature=")[2]


@pytest.mark.parametrize(("name", "method", "path", "query", "headers", "expected"), [
    ("get-vanilla", "GET", "/", [], {}, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    ("post-vanilla", "POST", "/", [], {}, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ("get-vanilla-query-order-key-case", "GET", "/", [("Param2", "value2"), ("Param1", "value1")], {},
     "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
    ("get-header-value-order", "GET", "/", [], {"My-Header1": "value4,value1,value3,value2"},
     "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"),
    ("get-utf8", "GET", "/ሴ", [], {}, "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
])
def test_the_test_suite_of_aws_passes(name, method, path, query, headers, expected):
    assert signature(SUITE.headers(method, "example.amazonaws.com", path, query, headers, now_s=SUITE_S)) == expected, name


@pytest.mark.parametrize(("path", "query", "headers", "expected"), [
    ("/test.txt", [], {"Range": "bytes=0-9"}, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
    ("/", [("lifecycle", "")], {}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
    ("/", [("max-keys", "2"), ("prefix", "J")], {}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")])
def test_the_examples_of_s3_pass(path, query, headers, expected):
    assert signature(S3.headers("GET", BUCKET, path, query, headers, now_s=S3_S)) == expected


def test_the_presigned_example_of_s3_passes():
    url = S3.url("GET", f"https://{BUCKET}", "/test.txt", expires_s=86_400, now_s=S3_S)
    assert url.endswith("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), token=st.none() | st.just("a/token+="),
       version=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=10))
def test_botocore_signs_alike(key, token, version):
    credentials = Credentials("AKID", "secret/+", token)
    query = [] if version is None else [("versionId", version)]
    headers = Signer(service="s3", region="eu-west-1", credentials=credentials).headers(
        "GET", "bucket.s3.eu-west-1.amazonaws.com", "/" + key, query, {"range": "bytes=0-1"}, now_s=SUITE_S)
    request = AWSRequest("GET", f"https://bucket.s3.eu-west-1.amazonaws.com{target('/' + key, query)}",
                         headers={"range": "bytes=0-1", "X-Amz-Content-SHA256": headers["x-amz-content-sha256"],
                                  "X-Amz-Date": headers["x-amz-date"]} | ({"X-Amz-Security-Token": token} if token else {}))
    request.context["timestamp"] = headers["x-amz-date"]
    theirs = botocore.auth.S3SigV4Auth(credentials, "s3", "eu-west-1")
    assert signature(headers) == theirs.signature(theirs.string_to_sign(request, theirs.canonical_request(request)), request)


@pytest.mark.parametrize("token", [None, "FwoGZXIvYXdzE//+token=="])
def test_a_database_token_is_the_one_that_botocore_makes(token):
    session = botocore.session.Session()
    session.set_credentials("AKIDEXAMPLE", "secret", token)
    client = session.create_client("rds", region_name="eu-central-1")
    theirs = client.generate_db_auth_token("db.abc.eu-central-1.rds.amazonaws.com", 5432, "infer user", "eu-central-1")
    moment = theirs.partition("X-Amz-Date=")[2][:16]
    now_s = calendar.timegm(time.strptime(moment, "%Y%m%dT%H%M%SZ"))
    assert rds_token("db.abc.eu-central-1.rds.amazonaws.com", 5432, "infer user", "eu-central-1",
                     Credentials("AKIDEXAMPLE", "secret", token), now_s=now_s) == theirs


def test_a_secret_is_never_shown():
    assert "secret" not in repr(Credentials("AKID", "secret", "secret-token"))
