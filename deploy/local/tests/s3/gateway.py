"""How the session talks to the gateway, and what it expects of every answer."""

import http.client
import os
import urllib.parse

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

REGION = os.environ["S3_REGION"]
KEY = {"aws_access_key_id": os.environ["S3_ACCESS_KEY"], "aws_secret_access_key": os.environ["S3_SECRET"]}
HTTP, HTTPS, CA = os.environ["S3_HTTP"], os.environ["S3_HTTPS"], os.environ["S3_CA"]


def client(endpoint=HTTP, config=None, region=REGION, key=None, **options):
    config = Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}).merge(config or Config())
    key = key or KEY
    return boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config, **key, **options)


s3 = client()


def refused(code, call, status=None):
    try:
        answer = call()
    except ClientError as error:
        found = error.response["Error"]["Code"]
        assert found == code, f"{found} instead of {code}: {error}"
        if status:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status, error.response
        return error.response
    raise AssertionError(f"not refused: {code}: {answer}")


def status_of(answer):
    return answer["ResponseMetadata"]["HTTPStatusCode"]


def headers_of(answer):
    return answer["ResponseMetadata"]["HTTPHeaders"]


def is_kms(answer):
    assert answer["ServerSideEncryption"] == "aws:kms", answer
    assert len(answer["SSEKMSKeyId"]) == 32, answer


def read(bucket, key, **options):
    return s3.get_object(Bucket=bucket, Key=key, **options)["Body"].read()


def signed(method, path, headers=None, body=b"", sign_payload=True):
    """A request of the client's own making, signed by botocore."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    headers = dict(headers or {})
    if not sign_payload:
        headers["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
    request = AWSRequest(method=method, url=HTTP + path, headers=headers, data=body)
    credentials = Credentials(KEY["aws_access_key_id"], KEY["aws_secret_access_key"])
    S3SigV4Auth(credentials, "s3", REGION).add_auth(request)
    return request.prepare()


def raw(method, path, status, headers=None, body=b"", code=None):
    request = signed(method, path, headers, body)
    host = urllib.parse.urlsplit(HTTP).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request(method, path, body, dict(request.headers))
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == status, (answer.status, text)
    if code:
        assert f"<Code>{code}</Code>".encode() in text, text
    connection.close()
    return answer, text
