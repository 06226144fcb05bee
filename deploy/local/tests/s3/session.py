"""What boto3 finds at a gateway: every operation that docs/S3.md lists, and S3's own codes where one is refused."""

import base64
import datetime
import hashlib
import http.client
import os
import ssl
import time
import urllib.parse
import urllib.request
import zlib

import boto3
from botocore.client import Config

from gateway import CA, HTTP, HTTPS, KEY, REGION, client, headers_of, is_kms, raw, read, refused, s3, signed, status_of
from lifecycle import lifecycles, suspended
from locks import locks
from multipart import multipart
from tagging import configured_encryption, cors, tagging


def signing():
    stranger = dict(KEY, aws_access_key_id="RDTAAAAAAAAAAAAAAAA7")
    refused("InvalidAccessKeyId", client(key=stranger).list_buckets, 403)
    wrong = dict(KEY, aws_secret_access_key="another")
    refused("SignatureDoesNotMatch", client(key=wrong).list_buckets, 403)
    elsewhere = refused("AuthorizationHeaderMalformed", client(region="us-east-1").list_buckets, 400)
    assert headers_of(elsewhere)["x-amz-bucket-region"] == REGION, elsewhere
    assert elsewhere["Error"]["Region"] == REGION, elsewhere
    from botocore import UNSIGNED

    refused("AccessDenied", client(config=Config(signature_version=UNSIGNED)).list_buckets, 403)
    refused("InvalidRequest", client(config=Config(signature_version="s3")).list_buckets, 400)
    answer = s3.list_buckets()
    assert len(headers_of(answer)["x-amz-request-id"]) == 16, answer
    assert len(answer["Owner"]["ID"]) == 64, answer


def buckets():
    place = {"LocationConstraint": REGION}
    answer = s3.create_bucket(Bucket="s3-one", CreateBucketConfiguration=place)
    assert answer["Location"] == "/s3-one", answer
    refused("BucketAlreadyOwnedByYou", lambda: s3.create_bucket(Bucket="s3-one", CreateBucketConfiguration=place), 409)
    other = {"LocationConstraint": "eu-central-1"}
    refused(
        "IllegalLocationConstraintException",
        lambda: s3.create_bucket(Bucket="s3-other", CreateBucketConfiguration=other),
        400,
    )
    refused(
        "AccessControlListNotSupported",
        lambda: s3.create_bucket(Bucket="s3-public", ACL="public-read", CreateBucketConfiguration=place),
        400,
    )
    # Without a configuration: where else should it be.
    raw("PUT", "/s3-two", 200)
    names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    assert names == ["s3-one", "s3-two"], names
    created = s3.list_buckets()["Buckets"][0]["CreationDate"]
    age = datetime.datetime.now(datetime.timezone.utc) - created
    assert abs(age.total_seconds()) < 300, created
    page = s3.list_buckets(MaxBuckets=1, Prefix="s3-")
    assert [b["Name"] for b in page["Buckets"]] == ["s3-one"], page
    assert page["Buckets"][0]["BucketRegion"] == REGION, page
    page = s3.list_buckets(MaxBuckets=1, Prefix="s3-", ContinuationToken=page["ContinuationToken"])
    assert [b["Name"] for b in page["Buckets"]] == ["s3-two"] and "ContinuationToken" not in page, page
    assert s3.list_buckets(Prefix="none")["Buckets"] == []
    answer = s3.head_bucket(Bucket="s3-one")
    assert answer["BucketRegion"] == REGION, answer
    refused("404", lambda: s3.head_bucket(Bucket="s3-nobody"), 404)
    assert s3.get_bucket_location(Bucket="s3-one")["LocationConstraint"] == REGION
    refused("NoSuchBucket", lambda: s3.get_bucket_location(Bucket="s3-nobody"), 404)
    rule = s3.get_bucket_encryption(Bucket="s3-one")["ServerSideEncryptionConfiguration"]["Rules"][0]
    default = rule["ApplyServerSideEncryptionByDefault"]
    assert default["SSEAlgorithm"] == "aws:kms" and len(default["KMSMasterKeyID"]) == 32, rule
    acl = s3.get_bucket_acl(Bucket="s3-one")
    assert [g["Permission"] for g in acl["Grants"]] == ["FULL_CONTROL"], acl
    assert acl["Grants"][0]["Grantee"]["ID"] == acl["Owner"]["ID"], acl
    s3.put_bucket_acl(Bucket="s3-one", ACL="private")
    refused("AccessControlListNotSupported", lambda: s3.put_bucket_acl(Bucket="s3-one", ACL="public-read"), 400)
    owners = s3.get_bucket_ownership_controls(Bucket="s3-one")["OwnershipControls"]["Rules"]
    assert owners == [{"ObjectOwnership": "BucketOwnerEnforced"}], owners
    assert s3.get_bucket_policy_status(Bucket="s3-one")["PolicyStatus"]["IsPublic"] is False
    refused("AccessDenied", lambda: s3.get_bucket_acl(Bucket="s3-one", ExpectedBucketOwner="1" * 12), 403)
    s3.get_bucket_acl(Bucket="s3-one", ExpectedBucketOwner=acl["Owner"]["ID"])
    assert "Status" not in s3.get_bucket_versioning(Bucket="s3-one")
    s3.put_object(Bucket="s3-two", Key="k", Body=b"x")
    refused("BucketNotEmpty", lambda: s3.delete_bucket(Bucket="s3-two"), 409)
    s3.delete_object(Bucket="s3-two", Key="k")
    assert status_of(s3.delete_bucket(Bucket="s3-two")) == 204
    refused("NoSuchBucket", lambda: s3.delete_bucket(Bucket="s3-two"), 404)
    refused("NoSuchBucket", lambda: s3.put_object(Bucket="s3-two", Key="k", Body=b"x"), 404)
    # Made again under its name: nobody meets the old one.
    raw("PUT", "/s3-two", 200)
    s3.put_object(Bucket="s3-two", Key="k", Body=b"again")
    assert read("s3-two", "k") == b"again"
    s3.delete_object(Bucket="s3-two", Key="k")
    s3.delete_bucket(Bucket="s3-two")


def objects():
    bucket = "s3-one"
    answer = s3.put_object(Bucket=bucket, Key="small", Body=b"hello")
    is_kms(answer)
    assert "VersionId" not in answer, answer
    assert answer["ChecksumType"] == "FULL_OBJECT", answer
    assert len(answer["ETag"]) == 36 and answer["ETag"].endswith('-1"'), answer
    got = s3.get_object(Bucket=bucket, Key="small")
    assert got["Body"].read() == b"hello"
    is_kms(got)
    # Signed for another region it is refused once, and the SDK signs for the one that the refusal names.
    assert client(region="us-east-1").get_object(Bucket=bucket, Key="small")["Body"].read() == b"hello"
    assert got["ETag"] == answer["ETag"] and got["ContentLength"] == 5 and got["AcceptRanges"] == "bytes", got
    assert got["ContentType"] == "binary/octet-stream", got
    again = s3.put_object(Bucket=bucket, Key="small", Body=b"hello")
    assert again["ETag"] != answer["ETag"]
    for size in [0, 1, 16_000, 16_384, 100_000, (1 << 20) - 1, (1 << 20) + 1, 20 << 20]:
        body = os.urandom(size)
        s3.put_object(Bucket=bucket, Key="sized", Body=body)
        assert read(bucket, "sized") == body, size
        assert s3.head_object(Bucket=bucket, Key="sized")["ContentLength"] == size
    for key in ["a b/ä+ö&=?#%.txt", "k" * 1024, "//two//slashes//", "dots..here", "\u65e5\u672c\u8a9e"]:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert read(bucket, key) == key.encode(), key
        s3.delete_object(Bucket=bucket, Key=key)
    refused("KeyTooLongError", lambda: s3.put_object(Bucket=bucket, Key="k" * 1025, Body=b""), 400)
    refused("NoSuchKey", lambda: s3.get_object(Bucket=bucket, Key="nothing"), 404)
    refused("404", lambda: s3.head_object(Bucket=bucket, Key="nothing"), 404)
    refused("NoSuchBucket", lambda: s3.get_object(Bucket="s3-nobody", Key="k"), 404)
    refused("InvalidArgument", lambda: s3.get_object(Bucket=bucket, Key="small", VersionId="x"), 400)
    refused("NoSuchVersion", lambda: s3.get_object(Bucket=bucket, Key="small", VersionId="0" * 32), 404)
    assert read(bucket, "small", VersionId="null") == b"hello"
    assert status_of(s3.delete_object(Bucket=bucket, Key="nothing")) == 204
    s3.delete_object(Bucket=bucket, Key="small")
    refused("NoSuchKey", lambda: s3.get_object(Bucket=bucket, Key="small"), 404)


def described():
    place = {"LocationConstraint": REGION}
    s3.create_bucket(Bucket="s3-kept", CreateBucketConfiguration=place)
    stated = {
        "ContentType": "text/x-canary",
        "CacheControl": "max-age=60",
        "ContentDisposition": 'attachment; filename="a.txt"',
        "ContentEncoding": "identity",
        "ContentLanguage": "de-CH",
        "Expires": datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        "Metadata": {"Note": "S3-CANARY-metadata", "empty": ""},
        "Tagging": "case=17&note=S3-CANARY-tag",
        "ChecksumAlgorithm": "SHA256",
    }
    body = b"S3-CANARY-content" * 1000
    s3.put_object(Bucket="s3-kept", Key="described", Body=body, **stated)
    for got in [
        s3.get_object(Bucket="s3-kept", Key="described"),
        s3.head_object(Bucket="s3-kept", Key="described"),
    ]:
        for name in ["ContentType", "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage"]:
            assert got[name] == stated[name], (name, got)
        assert got["Metadata"] == {"note": "S3-CANARY-metadata", "empty": ""}, got["Metadata"]
        assert headers_of(got)["expires"] == "Wed, 02 Jan 2030 03:04:05 GMT", got
    assert s3.get_object(Bucket="s3-kept", Key="described")["TagCount"] == 2
    over = s3.get_object(
        Bucket="s3-kept", Key="described", ResponseContentType="text/html", ResponseCacheControl="no-store"
    )
    assert over["ContentType"] == "text/html" and over["CacheControl"] == "no-store", over
    tags = s3.get_object_tagging(Bucket="s3-kept", Key="described")["TagSet"]
    assert sorted((t["Key"], t["Value"]) for t in tags) == [("case", "17"), ("note", "S3-CANARY-tag")], tags
    acl = s3.get_object_acl(Bucket="s3-kept", Key="described")
    assert [g["Permission"] for g in acl["Grants"]] == ["FULL_CONTROL"], acl
    s3.put_object_acl(Bucket="s3-kept", Key="described", ACL="private")
    refused(
        "AccessControlListNotSupported",
        lambda: s3.put_object_acl(Bucket="s3-kept", Key="described", ACL="public-read"),
        400,
    )
    put = lambda **more: lambda: s3.put_object(Bucket="s3-kept", Key="refused", Body=b"x", **more)
    refused("MetadataTooLarge", put(Metadata={"k": "v" * 2048}), 400)
    refused("InvalidArgument", put(Metadata={"reduit-s3": "{}"}), 400)
    refused("InvalidTag", put(Tagging="&".join(f"k{n}=v" for n in range(11))), 400)
    refused("InvalidTag", put(Tagging="a=1&a=2"), 400)
    refused("AccessControlListNotSupported", put(ACL="public-read"), 400)
    refused("NotImplemented", put(StorageClass="GLACIER"), 501)
    refused("NotImplemented", put(WebsiteRedirectLocation="/elsewhere"), 501)
    refused("404", lambda: s3.head_object(Bucket="s3-kept", Key="refused"), 404)


def encryption():
    own = s3.head_object(Bucket="s3-kept", Key="described")["SSEKMSKeyId"]
    put = lambda **more: lambda: s3.put_object(Bucket="s3-kept", Key="sealed", Body=b"x", **more)
    put(ServerSideEncryption="aws:kms")()
    put(ServerSideEncryption="aws:kms", SSEKMSKeyId=own)()
    refused("KMS.NotFoundException", put(ServerSideEncryption="aws:kms", SSEKMSKeyId="0" * 32), 400)
    refused("NotImplemented", put(ServerSideEncryption="AES256"), 501)
    refused("NotImplemented", put(ServerSideEncryption="aws:kms:dsse"), 501)
    refused("NotImplemented", put(ServerSideEncryption="aws:kms", BucketKeyEnabled=True), 501)
    refused("NotImplemented", put(ServerSideEncryption="aws:kms", SSEKMSEncryptionContext="e30="), 501)
    tls = client(HTTPS, verify=CA)
    customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": b"k" * 32}
    refused("NotImplemented", lambda: tls.put_object(Bucket="s3-kept", Key="own", Body=b"x", **customer), 501)
    refused("NotImplemented", lambda: tls.get_object(Bucket="s3-kept", Key="sealed", **customer), 501)


def checksums():
    bucket, body = "s3-one", os.urandom(3 << 20)
    crc = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    sha = base64.b64encode(hashlib.sha256(body).digest()).decode()
    sha1 = base64.b64encode(hashlib.sha1(body).digest()).decode()
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    wrong = base64.b64encode(bytes(4)).decode()
    # In a trailer over TLS, as SDKs send it by default, and ahead of the body in clear.
    for via in [s3, client(HTTPS, verify=CA)]:
        for algorithm, field, value in [
            ("CRC32", "ChecksumCRC32", crc),
            ("SHA256", "ChecksumSHA256", sha),
            ("SHA1", "ChecksumSHA1", sha1),
        ]:
            answer = via.put_object(Bucket=bucket, Key="summed", Body=body, ChecksumAlgorithm=algorithm)
            assert answer[field] == value, (algorithm, answer)
            head = via.head_object(Bucket=bucket, Key="summed", ChecksumMode="ENABLED")
            assert head[field] == value and head["ChecksumType"] == "FULL_OBJECT", head
            # boto3 compares what it reads with it.
            got = via.get_object(Bucket=bucket, Key="summed", ChecksumMode="ENABLED")
            assert got[field] == value and got["Body"].read() == body
            part = via.get_object(Bucket=bucket, Key="summed", ChecksumMode="ENABLED", Range="bytes=0-9")
            assert field not in part and part["Body"].read() == body[:10], part
    # Ahead of the body.
    s3.put_object(Bucket=bucket, Key="summed", Body=body, ChecksumCRC32=crc, ContentMD5=md5)
    refused("BadDigest", lambda: s3.put_object(Bucket=bucket, Key="bad", Body=body, ChecksumCRC32=wrong), 400)
    refused(
        "BadDigest",
        lambda: s3.put_object(Bucket=bucket, Key="bad", Body=b"small", ContentMD5=md5),
        400,
    )
    refused("InvalidDigest", lambda: s3.put_object(Bucket=bucket, Key="bad", Body=b"x", ChecksumCRC32="?"), 400)
    refused("InvalidDigest", lambda: s3.put_object(Bucket=bucket, Key="bad", Body=b"x", ContentMD5="AAAA"), 400)
    # The payload is not what was signed.
    request = signed("PUT", f"/{bucket}/bad", body=b"one thing")
    host = urllib.parse.urlsplit(HTTP).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("PUT", f"/{bucket}/bad", b"other one", dict(request.headers))
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 400 and b"<Code>XAmzContentSHA256Mismatch</Code>" in text, (answer.status, text)
    # Nothing became visible.
    refused("404", lambda: s3.head_object(Bucket=bucket, Key="bad"), 404)
    # One that nobody stated is summed all the same.
    raw("PUT", f"/{bucket}/unstated", 200, body=b"123456789")
    head = s3.head_object(Bucket=bucket, Key="unstated", ChecksumMode="ENABLED")
    assert base64.b64decode(head["ChecksumCRC64NVME"]).hex() == "ae8b14860a799888", head
    attributes = s3.get_object_attributes(
        Bucket=bucket, Key="unstated", ObjectAttributes=["ETag", "Checksum", "ObjectSize", "StorageClass"]
    )
    assert attributes["Checksum"]["ChecksumCRC64NVME"] == head["ChecksumCRC64NVME"], attributes
    assert attributes["ObjectSize"] == 9 and attributes["StorageClass"] == "STANDARD", attributes
    # S3 leaves the quotes out in this one answer; here they stand as everywhere (docs/S3.md).
    assert attributes["ETag"] == head["ETag"], attributes
    # Without a length nobody knows when it is whole.
    request = signed("PUT", f"/{bucket}/endless", {"Transfer-Encoding": "chunked"}, sign_payload=False)
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.putrequest("PUT", f"/{bucket}/endless")
    for name, value in request.headers.items():
        if name.lower() != "content-length":
            connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"3\r\nabc\r\n0\r\n\r\n")
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 411 and b"<Code>MissingContentLength</Code>" in text, (answer.status, text)


def ranges():
    bucket, body = "s3-one", os.urandom(9 << 20)
    s3.put_object(Bucket=bucket, Key="ranged", Body=body)
    size = len(body)
    for text, first, last in [
        ("bytes=0-0", 0, 0),
        ("bytes=5-", 5, size - 1),
        ("bytes=-7", size - 7, size - 1),
        ("bytes=100-200", 100, 200),
        (f"bytes={(8 << 20) - 100}-{(8 << 20) + 100}", (8 << 20) - 100, (8 << 20) + 100),
        (f"bytes=10-{size * 2}", 10, size - 1),
        (f"bytes=-{size * 2}", 0, size - 1),
    ]:
        got = s3.get_object(Bucket=bucket, Key="ranged", Range=text)
        assert status_of(got) == 206, (text, got)
        assert got["ContentRange"] == f"bytes {first}-{last}/{size}", (text, got["ContentRange"])
        assert got["ContentLength"] == last - first + 1, (text, got)
        assert got["Body"].read() == body[first : last + 1], text
        head = s3.head_object(Bucket=bucket, Key="ranged", Range=text)
        assert status_of(head) == 206 and head["ContentLength"] == last - first + 1, (text, head)
    for text in [f"bytes={size}-", f"bytes={size * 2}-{size * 3}", "bytes=-0"]:
        refused("InvalidRange", lambda: s3.get_object(Bucket=bucket, Key="ranged", Range=text), 416)
    part = s3.get_object(Bucket=bucket, Key="ranged", PartNumber=1)
    assert part["Body"].read() == body and part["ContentRange"] == f"bytes 0-{size - 1}/{size}", part
    refused("InvalidPartNumber", lambda: s3.get_object(Bucket=bucket, Key="ranged", PartNumber=2), 416)
    refused(
        "InvalidRequest",
        lambda: s3.get_object(Bucket=bucket, Key="ranged", PartNumber=1, Range="bytes=0-1"),
        400,
    )
    # What is not read to its end leaves the connection usable.
    s3.get_object(Bucket=bucket, Key="ranged")["Body"].read(10)
    assert read(bucket, "ranged", Range="bytes=1-2") == body[1:3]


def conditions():
    bucket = "s3-one"
    etag = s3.put_object(Bucket=bucket, Key="held", Body=b"one")["ETag"]
    get = lambda **more: lambda: s3.get_object(Bucket=bucket, Key="held", **more)
    head = lambda **more: lambda: s3.head_object(Bucket=bucket, Key="held", **more)
    modified = s3.head_object(Bucket=bucket, Key="held")["LastModified"]
    hour = datetime.timedelta(hours=1)
    assert get(IfMatch=etag)()["Body"].read() == b"one"
    get(IfNoneMatch='"other"')()
    get(IfModifiedSince=modified - hour)()
    get(IfUnmodifiedSince=modified + hour)()
    refused("PreconditionFailed", get(IfMatch='"other"'), 412)
    refused("PreconditionFailed", get(IfUnmodifiedSince=modified - hour), 412)
    for call in [get, head]:
        answer = refused("304", call(IfNoneMatch=etag), 304)
        assert headers_of(answer)["etag"] == etag, answer
        refused("304", call(IfModifiedSince=modified + hour), 304)
        refused("412" if call is head else "PreconditionFailed", call(IfMatch='"other"'), 412)
    put = lambda key="held", **more: lambda: s3.put_object(Bucket=bucket, Key=key, Body=b"two", **more)
    refused("PreconditionFailed", put(IfNoneMatch="*"), 412)
    refused("PreconditionFailed", put(IfMatch='"other"'), 412)
    refused("NoSuchKey", put("nowhere", IfMatch=etag), 404)
    refused("NotImplemented", put(IfNoneMatch=etag), 501)
    put("fresh", IfNoneMatch="*")()
    refused("PreconditionFailed", put("fresh", IfNoneMatch="*"), 412)
    assert read(bucket, "held") == b"one"
    second = put(IfMatch=etag)()["ETag"]
    assert read(bucket, "held") == b"two"
    refused("PreconditionFailed", put(IfMatch=etag), 412)
    # A body in blocks meets the same conditions.
    big = os.urandom(2 << 20)
    refused(
        "PreconditionFailed", lambda: s3.put_object(Bucket=bucket, Key="held", Body=big, IfMatch=etag), 412
    )
    refused(
        "PreconditionFailed", lambda: s3.put_object(Bucket=bucket, Key="held", Body=big, IfNoneMatch="*"), 412
    )
    refused("PreconditionFailed", lambda: s3.delete_object(Bucket=bucket, Key="held", IfMatch=etag), 412)
    s3.delete_object(Bucket=bucket, Key="held", IfMatch=second)
    refused("404", lambda: s3.head_object(Bucket=bucket, Key="held"), 404)


def copies():
    bucket, kept = "s3-one", "s3-kept"
    source = {"Bucket": kept, "Key": "described"}
    answer = s3.copy_object(Bucket=bucket, Key="copied", CopySource=source)
    is_kms(answer)
    got = s3.get_object(Bucket=bucket, Key="copied", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"S3-CANARY-content" * 1000
    assert got["ContentType"] == "text/x-canary" and got["Metadata"]["note"] == "S3-CANARY-metadata", got
    assert got["SSEKMSKeyId"] != s3.head_object(Bucket=kept, Key="described")["SSEKMSKeyId"]
    assert got["ETag"] == answer["CopyObjectResult"]["ETag"] and got["TagCount"] == 2, got
    assert got["ChecksumSHA256"] == answer["CopyObjectResult"]["ChecksumSHA256"], answer
    age = abs(answer["CopyObjectResult"]["LastModified"] - got["LastModified"])
    assert age < datetime.timedelta(seconds=1), answer
    copy = lambda **more: lambda: s3.copy_object(Bucket=bucket, Key="copied", CopySource=source, **more)
    copy(
        MetadataDirective="REPLACE",
        ContentType="text/plain",
        Metadata={"only": "this"},
        TaggingDirective="REPLACE",
        Tagging="a=b",
        ChecksumAlgorithm="CRC32",
    )()
    got = s3.get_object(Bucket=bucket, Key="copied", ChecksumMode="ENABLED")
    assert got["ContentType"] == "text/plain" and got["Metadata"] == {"only": "this"}, got
    assert got["TagCount"] == 1 and "CacheControl" not in got and "ChecksumCRC32" in got, got
    own = {"Bucket": bucket, "Key": "copied"}
    refused("InvalidRequest", lambda: s3.copy_object(Bucket=bucket, Key="copied", CopySource=own), 400)
    s3.copy_object(
        Bucket=bucket, Key="copied", CopySource=own, MetadataDirective="REPLACE", Metadata={"new": "1"}
    )
    assert s3.head_object(Bucket=bucket, Key="copied")["Metadata"] == {"new": "1"}
    etag = s3.head_object(Bucket=kept, Key="described")["ETag"]
    copy(CopySourceIfMatch=etag)()
    refused("PreconditionFailed", copy(CopySourceIfMatch='"other"'), 412)
    refused("PreconditionFailed", copy(CopySourceIfNoneMatch=etag), 412)
    hour = datetime.timedelta(hours=1)
    refused("PreconditionFailed", copy(CopySourceIfUnmodifiedSince=got["LastModified"] - hour), 412)
    refused("PreconditionFailed", copy(CopySourceIfModifiedSince=got["LastModified"] + hour), 412)
    refused("PreconditionFailed", copy(IfNoneMatch="*"), 412)
    refused("NotImplemented", copy(ServerSideEncryption="AES256"), 501)
    nothing = {"Bucket": kept, "Key": "nothing"}
    refused("NoSuchKey", lambda: s3.copy_object(Bucket=bucket, Key="c", CopySource=nothing), 404)
    nobody = {"Bucket": "s3-nobody", "Key": "k"}
    refused("NoSuchBucket", lambda: s3.copy_object(Bucket=bucket, Key="c", CopySource=nobody), 404)
    body = os.urandom(18 << 20)
    s3.put_object(Bucket=kept, Key="large", Body=body)
    s3.copy_object(Bucket=bucket, Key="large copy", CopySource={"Bucket": kept, "Key": "large"})
    assert read(bucket, "large copy") == body


def listings():
    bucket = "s3-listed"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    keys = sorted([f"a/{n:02}" for n in range(12)] + ["a b+c", "b/1/2", "b/3", "c", "\u00e9/x", "z"])
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for operation in ["list_objects_v2", "list_objects"]:
        for size in [1, 5, 1000]:
            pages = s3.get_paginator(operation).paginate(Bucket=bucket, PaginationConfig={"PageSize": size})
            found = [o["Key"] for page in pages for o in page.get("Contents", [])]
            assert found == keys, (operation, size, found)
            pages = s3.get_paginator(operation).paginate(
                Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": size}
            )
            pages = list(pages)
            found = [o["Key"] for page in pages for o in page.get("Contents", [])]
            prefixes = [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])]
            assert found == ["a b+c", "c", "z"] and prefixes == ["a/", "b/", "\u00e9/"], (found, prefixes)
    first = s3.list_objects_v2(Bucket=bucket, MaxKeys=3, FetchOwner=True)
    assert first["KeyCount"] == 3 and first["IsTruncated"] and first["MaxKeys"] == 3, first
    one = first["Contents"][0]
    assert one["Owner"]["ID"] and one["StorageClass"] == "STANDARD" and one["Size"] == 5, one
    assert one["ETag"] == s3.head_object(Bucket=bucket, Key=one["Key"])["ETag"], one
    assert "Owner" not in s3.list_objects_v2(Bucket=bucket, MaxKeys=1)["Contents"][0]
    assert "Owner" in s3.list_objects(Bucket=bucket, MaxKeys=1)["Contents"][0]
    later = s3.list_objects_v2(Bucket=bucket, StartAfter="b/1/2")
    assert [o["Key"] for o in later["Contents"]] == keys[keys.index("b/1/2") + 1 :], later
    under = s3.list_objects_v2(Bucket=bucket, Prefix="a/", Delimiter="/", MaxKeys=1000)
    assert under["KeyCount"] == 12 and under["Prefix"] == "a/", under
    none = s3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert none["KeyCount"] == 0 and not none["IsTruncated"], none
    assert s3.list_objects_v2(Bucket=bucket, Prefix="nothing")["KeyCount"] == 0
    refused("InvalidArgument", lambda: s3.list_objects_v2(Bucket=bucket, ContinuationToken="made-up"), 400)
    refused("InvalidArgument", lambda: s3.list_objects_v2(Bucket=bucket, Prefix="p" * 1025), 400)
    refused("NoSuchBucket", lambda: s3.list_objects_v2(Bucket="s3-nobody"), 404)
    refused("NoSuchBucket", lambda: s3.list_objects(Bucket="s3-nobody"), 404)
    # Percent-encoded as asked for, plain otherwise.
    _, text = raw("GET", f"/{bucket}?encoding-type=url&list-type=2&prefix=a%20b", 200)
    assert b"<Key>a%20b%2Bc</Key>" in text and b"<EncodingType>url</EncodingType>" in text, text
    _, text = raw("GET", f"/{bucket}?list-type=2&prefix=a%20b", 200)
    assert b"<Key>a b+c</Key>" in text, text
    everything = {"Objects": [{"Key": key} for key in keys + ["never was"]]}
    answer = s3.delete_objects(Bucket=bucket, Delete=everything)
    assert sorted(d["Key"] for d in answer["Deleted"]) == sorted(keys + ["never was"]), answer
    assert "Errors" not in answer, answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    mixed = {"Objects": [{"Key": "k"}, {"Key": "k", "VersionId": "made-up"}], "Quiet": True}
    answer = s3.delete_objects(Bucket=bucket, Delete=mixed)
    assert "Deleted" not in answer and [e["Code"] for e in answer["Errors"]] == ["InvalidArgument"], answer
    many = {"Objects": [{"Key": str(n)} for n in range(1001)]}
    refused("InvalidRequest", lambda: s3.delete_objects(Bucket=bucket, Delete=many), 400)
    s3.delete_bucket(Bucket=bucket)


def versions():
    bucket = "s3-versioned"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=bucket, Key="k", Body=b"null")
    listed = s3.list_object_versions(Bucket=bucket)["Versions"]
    assert [(v["VersionId"], v["IsLatest"]) for v in listed] == [("null", True)], listed
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    ids = [s3.put_object(Bucket=bucket, Key="k", Body=f"{n}".encode())["VersionId"] for n in range(3)]
    assert len(set(ids)) == 3 and read(bucket, "k") == b"2"
    for n, version in enumerate(ids):
        got = s3.get_object(Bucket=bucket, Key="k", VersionId=version)
        assert got["Body"].read() == f"{n}".encode() and got["VersionId"] == version, got
    assert read(bucket, "k", VersionId="null") == b"null"
    deleted = s3.delete_object(Bucket=bucket, Key="k")
    marker = deleted["VersionId"]
    assert deleted["DeleteMarker"] is True, deleted
    refused("NoSuchKey", lambda: s3.get_object(Bucket=bucket, Key="k"), 404)
    refused("MethodNotAllowed", lambda: s3.get_object(Bucket=bucket, Key="k", VersionId=marker), 405)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    page = s3.list_object_versions(Bucket=bucket)
    assert [v["VersionId"] for v in page["Versions"]] == ids[::-1] + ["null"], page
    assert [(m["VersionId"], m["IsLatest"]) for m in page["DeleteMarkers"]] == [(marker, True)], page
    assert not any(v["IsLatest"] for v in page["Versions"]), page
    for size in [1, 2, 3]:
        pages = s3.get_paginator("list_object_versions").paginate(
            Bucket=bucket, PaginationConfig={"PageSize": size}
        )
        found = [v["VersionId"] for p in pages for v in p.get("DeleteMarkers", []) + p.get("Versions", [])]
        assert found == [marker] + ids[::-1] + ["null"], (size, found)
    # A real version id is a marker too.
    page = s3.list_object_versions(Bucket=bucket, KeyMarker="k", VersionIdMarker=ids[1])
    assert [v["VersionId"] for v in page["Versions"]] == [ids[0], "null"], page
    undone = s3.delete_object(Bucket=bucket, Key="k", VersionId=marker)
    assert undone["DeleteMarker"] is True and undone["VersionId"] == marker, undone
    assert read(bucket, "k") == b"2"
    gone = s3.delete_object(Bucket=bucket, Key="k", VersionId=ids[2])
    assert gone["VersionId"] == ids[2] and "DeleteMarker" not in gone, gone
    assert read(bucket, "k") == b"1"
    assert status_of(s3.delete_object(Bucket=bucket, Key="k", VersionId=ids[2])) == 204
    copied = s3.copy_object(
        Bucket=bucket, Key="old", CopySource={"Bucket": bucket, "Key": "k", "VersionId": ids[0]}
    )
    assert copied["CopySourceVersionId"] == ids[0] and copied["VersionId"], copied
    assert read(bucket, "old") == b"0"
    for key in ["d/1", "d/1", "d/2", "e/1", "f"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    for size in [1, 2, 1000]:
        pages = s3.get_paginator("list_object_versions").paginate(
            Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": size}
        )
        pages = list(pages)
        prefixes = [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])]
        found = [v["Key"] for page in pages for v in page.get("Versions", [])]
        assert prefixes == ["d/", "e/"] and found == ["f", "k", "k", "k", "old"], (size, prefixes, found)
    refused("BucketNotEmpty", lambda: s3.delete_bucket(Bucket=bucket), 409)
    # Every version, page by page, deleted as it is listed.
    boto = boto3.resource("s3", endpoint_url=HTTP, region_name=REGION, **KEY)
    boto.Bucket(bucket).object_versions.delete()
    assert "Versions" not in s3.list_object_versions(Bucket=bucket)
    s3.delete_bucket(Bucket=bucket)


def presigned():
    context = ssl.create_default_context(cafile=CA)
    for via, context in [(s3, None), (client(HTTPS, verify=CA), context)]:
        where = {"Bucket": "s3-one", "Key": "pre signed/\u00e4"}
        url = via.generate_presigned_url("put_object", Params=where, ExpiresIn=60)
        request = urllib.request.Request(url, data=b"by url", method="PUT")
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            assert answer.status == 200
        url = via.generate_presigned_url(
            "get_object", Params=dict(where, ResponseContentType="text/html"), ExpiresIn=60
        )
        with urllib.request.urlopen(url, context=context, timeout=30) as answer:
            assert answer.read() == b"by url" and answer.headers["content-type"] == "text/html"
        over = via.generate_presigned_url("get_object", Params=where, ExpiresIn=1)
        time.sleep(2.1)
        for bad, code in [(over, b"AccessDenied"), (url.replace("html", "plain"), b"SignatureDoesNotMatch")]:
            try:
                urllib.request.urlopen(bad, context=context, timeout=30)
            except urllib.error.HTTPError as error:
                text = error.read()
                assert error.code == 403 and code in text, (error.code, text)
            else:
                raise AssertionError("a presigned URL that is no good was taken")


def retries():
    """A request sent again under its invocation id has effect once, and is answered as it was."""
    bucket = "s3-retried"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for size in [5, 2 << 20]:
        body, invocation = os.urandom(size), {"amz-sdk-invocation-id": f"invocation-{size}"}
        answers = [raw("PUT", f"/{bucket}/{size}", 200, invocation, body)[0] for _ in range(3)]
        etags = {answer.headers["etag"] for answer in answers}
        assert len(etags) == 1, etags
        kept = s3.list_object_versions(Bucket=bucket, Prefix=str(size))["Versions"]
        assert len(kept) == 1 and kept[0]["ETag"] in etags, kept
        other = {"amz-sdk-invocation-id": f"another-{size}"}
        raw("PUT", f"/{bucket}/{size}", 200, other, body)
        assert len(s3.list_object_versions(Bucket=bucket, Prefix=str(size))["Versions"]) == 2
    # Though what the first try stored has been replaced since, and is nowhere any more.
    for bucket_now, size in [(bucket, 7), ("s3-one", 7), ("s3-one", 2 << 20)]:
        body, invocation = os.urandom(size), {"amz-sdk-invocation-id": f"replaced-{size}"}
        first = raw("PUT", f"/{bucket_now}/replaced", 200, invocation, body)[0]
        raw("PUT", f"/{bucket_now}/replaced", 200, {"amz-sdk-invocation-id": f"then-{size}"}, b"then")
        again = raw("PUT", f"/{bucket_now}/replaced", 200, invocation, body)[0]
        assert again.headers["etag"] == first.headers["etag"], again.headers
        assert read(bucket_now, "replaced") == b"then"
    s3.delete_object(Bucket="s3-one", Key="replaced")
    only = {"amz-sdk-invocation-id": "conditional", "If-None-Match": "*"}
    first = raw("PUT", f"/{bucket}/only", 200, only, b"x")[0]
    again = raw("PUT", f"/{bucket}/only", 200, only, b"x")[0]
    assert first.headers["etag"] == again.headers["etag"]
    markers = {
        raw("DELETE", f"/{bucket}/only", 204, {"amz-sdk-invocation-id": "deleted"})[0].headers["x-amz-version-id"]
        for _ in range(3)
    }
    assert len(markers) == 1, markers
    assert len(s3.list_object_versions(Bucket=bucket, Prefix="only")["DeleteMarkers"]) == 1


def not_offered():
    bucket = "s3-one"
    for name, arguments in {
        "get_bucket_policy": {},
        "get_bucket_website": {},
        "get_bucket_replication": {},
        "get_bucket_notification_configuration": {},
        "get_bucket_logging": {},
        "get_public_access_block": {},
        "get_object_torrent": {"Key": "k"},
        "restore_object": {"Key": "k"},
    }.items():
        refused("NotImplemented", lambda: getattr(s3, name)(Bucket=bucket, **arguments), 501)
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    raw("POST", f"/{bucket}", 501, form, b"--x--", code="NotImplemented")


def tls():
    over = client(HTTPS, verify=CA)
    over.put_object(Bucket="s3-one", Key="over tls", Body=b"over tls" * 200_000)
    assert over.get_object(Bucket="s3-one", Key="over tls")["Body"].read() == b"over tls" * 200_000
    context = ssl.create_default_context(cafile=CA)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host = urllib.parse.urlsplit(HTTPS)
    try:
        connection = http.client.HTTPSConnection(host.hostname, host.port, context=context, timeout=10)
        connection.request("GET", "/")
    except ssl.SSLError:
        pass
    else:
        raise AssertionError("TLS 1.2 was taken")


def small_reads_are_quick():
    """Nagle's algorithm and delayed acknowledgements would make of each of these 40 ms."""
    s3.put_object(Bucket="s3-one", Key="quick", Body=b"x" * 4096)
    times = []
    for _ in range(40):
        began = time.perf_counter()
        s3.head_object(Bucket="s3-one", Key="quick")
        times.append(time.perf_counter() - began)
    quick = sorted(times)[len(times) // 4]
    assert quick < 0.035, f"a quarter of the reads took over {quick * 1000:.1f} ms"


for part in [
    signing,
    buckets,
    objects,
    described,
    encryption,
    configured_encryption,
    checksums,
    ranges,
    conditions,
    copies,
    multipart,
    listings,
    versions,
    suspended,
    locks,
    tagging,
    cors,
    lifecycles,
    presigned,
    retries,
    not_offered,
    tls,
    small_reads_are_quick,
]:
    began = time.perf_counter()
    try:
        part()
    except BaseException:
        print(f"{part.__name__}: FAILED")
        raise
    print(f"{part.__name__}: passed in {time.perf_counter() - began:.1f} s")
print("all passed")
