"""One put and one get of a client that traces its requests."""

import os

from gateway import s3

TRACE = os.environ["S3_TRACE"]


def trace(request, **_):
    request.headers["traceparent"] = f"00-{TRACE}-00f067aa0ba902b7-01"


s3.create_bucket(Bucket="span-canary", CreateBucketConfiguration={"LocationConstraint": os.environ["S3_REGION"]})
for call in ("PutObject", "GetObject"):
    s3.meta.events.register_last(f"before-send.s3.{call}", trace)
s3.put_object(Bucket="span-canary", Key="canary/name", Body=b"canary-content" * 500_000, Metadata={"canary": "meta"})
assert s3.get_object(Bucket="span-canary", Key="canary/name")["Body"].read() == b"canary-content" * 500_000
print("all passed")
