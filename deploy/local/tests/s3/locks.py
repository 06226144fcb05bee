"""Object lock, as boto3 sees it, for who may write and change no keys."""

import datetime

from gateway import REGION, refused, s3, status_of

BUCKET = "s3-locked"
PLACE = {"LocationConstraint": REGION}
HOUR = datetime.timedelta(hours=1)


def later(hours=1):
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    return now + hours * HOUR


def put(key, **stated):
    return s3.put_object(Bucket=BUCKET, Key=key, Body=b"kept", **stated)["VersionId"]


def retain(key, version, mode, until, **stated):
    retention = {"Mode": mode, "RetainUntilDate": until}
    return s3.put_object_retention(Bucket=BUCKET, Key=key, VersionId=version, Retention=retention, **stated)


def configure(bucket, rule=None, enabled="Enabled"):
    configuration = {"ObjectLockEnabled": enabled}
    if rule is not None:
        configuration["Rule"] = {"DefaultRetention": rule}
    return s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=configuration)


def buckets_with_object_lock():
    s3.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True, CreateBucketConfiguration=PLACE)
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    found = s3.get_object_lock_configuration(Bucket=BUCKET)["ObjectLockConfiguration"]
    assert found == {"ObjectLockEnabled": "Enabled"}, found
    suspended = {"Status": "Suspended"}
    refused(
        "InvalidBucketState",
        lambda: s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=suspended),
        409,
    )
    # One that has none.
    bucket = "s3-lock-later"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=PLACE)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    refused("ObjectLockConfigurationNotFoundError", lambda: s3.get_object_lock_configuration(Bucket=bucket), 404)
    refused("InvalidBucketState", lambda: configure(bucket), 409)
    for call in [s3.get_object_retention, s3.get_object_legal_hold]:
        refused("InvalidRequest", lambda: call(Bucket=bucket, Key="k"), 400)
    hold = {"ObjectLockLegalHoldStatus": "ON"}
    governed = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": later()}
    for stated in [hold, governed]:
        refused("InvalidRequest", lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"x", **stated), 400)
        refused("InvalidRequest", lambda: s3.create_multipart_upload(Bucket=bucket, Key="k", **stated), 400)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for malformed in [
        {},
        {"Mode": "GOVERNANCE"},
        {"Mode": "GOVERNANCE", "Days": 1, "Years": 1},
        {"Mode": "governance", "Days": 1},
        {"Days": 1},
    ]:
        refused("MalformedXML", lambda: configure(bucket, malformed), 400)
    refused("MalformedXML", lambda: configure(bucket, enabled="Disabled"), 400)
    for days in [0, -1, 36_501]:
        refused("InvalidArgument", lambda: configure(bucket, {"Mode": "GOVERNANCE", "Days": days}), 400)
    configure(bucket, {"Mode": "GOVERNANCE", "Days": 2})
    s3.put_object(Bucket=bucket, Key="default", Body=b"x")
    head = s3.head_object(Bucket=bucket, Key="default")
    assert head["ObjectLockMode"] == "GOVERNANCE", head
    left = head["ObjectLockRetainUntilDate"] - later(48)
    assert abs(left) < datetime.timedelta(minutes=5), head
    configure(bucket, {"Mode": "GOVERNANCE", "Years": 2})
    found = s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    assert found["Rule"]["DefaultRetention"] == {"Mode": "GOVERNANCE", "Days": 730}, found
    configure(bucket)
    assert "Rule" not in s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    s3.put_object(Bucket=bucket, Key="none", Body=b"x")
    assert "ObjectLockMode" not in s3.head_object(Bucket=bucket, Key="none")


def retentions():
    until = later()
    governed = put("governed", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until)
    complied = put("complied", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until)
    for key, version, mode in [("governed", governed, "GOVERNANCE"), ("complied", complied, "COMPLIANCE")]:
        for call in [s3.get_object, s3.head_object]:
            got = call(Bucket=BUCKET, Key=key)
            assert got["ObjectLockMode"] == mode and got["ObjectLockRetainUntilDate"] == until, got
        found = s3.get_object_retention(Bucket=BUCKET, Key=key)["Retention"]
        assert found == {"Mode": mode, "RetainUntilDate": until}, found
        remove = lambda **more: lambda: s3.delete_object(Bucket=BUCKET, Key=key, VersionId=version, **more)
        refused("AccessDenied", remove(), 403)
        # Passing over it takes more than this principal has, and compliance knows nobody who may.
        refused("AccessDenied", remove(BypassGovernanceRetention=True), 403)
        earlier = until - datetime.timedelta(minutes=1)
        refused("AccessDenied", lambda: retain(key, version, mode, earlier), 403)
        shorter = lambda: retain(key, version, mode, earlier, BypassGovernanceRetention=True)
        refused("AccessDenied", shorter, 403)
        end = lambda: s3.put_object_retention(Bucket=BUCKET, Key=key, VersionId=version, Retention={})
        refused("AccessDenied", end, 403)
        retain(key, version, mode, until + HOUR)
        found = s3.get_object_retention(Bucket=BUCKET, Key=key, VersionId=version)["Retention"]
        assert found["RetainUntilDate"] == until + HOUR, found
        # What covers it removes nothing.
        marker = s3.delete_object(Bucket=BUCKET, Key=key)["VersionId"]
        hidden = lambda: s3.get_object_retention(Bucket=BUCKET, Key=key, VersionId=marker)
        refused("MethodNotAllowed", hidden, 405)
        assert s3.head_object(Bucket=BUCKET, Key=key, VersionId=version)["ObjectLockMode"] == mode
    refused("AccessDenied", lambda: retain("complied", complied, "GOVERNANCE", until + 2 * HOUR), 403)
    many = {"Objects": [{"Key": "governed", "VersionId": governed}, {"Key": "free", "VersionId": put("free")}]}
    answer = s3.delete_objects(Bucket=BUCKET, Delete=many)
    assert [e["Code"] for e in answer["Errors"]] == ["AccessDenied"], answer
    assert [d["Key"] for d in answer["Deleted"]] == ["free"], answer
    # A bypass that is not needed asks for nothing more.
    free = put("free")
    removed = s3.delete_object(Bucket=BUCKET, Key="free", VersionId=free, BypassGovernanceRetention=True)
    assert status_of(removed) == 204, removed
    free = put("free")
    missing = lambda: s3.get_object_retention(Bucket=BUCKET, Key="free")
    refused("NoSuchObjectLockConfiguration", missing, 404)
    refused("MalformedXML", lambda: retain("free", free, "governance", until), 400)
    refused("InvalidArgument", lambda: retain("free", free, "GOVERNANCE", until - 2 * HOUR), 400)
    refused("NoSuchKey", lambda: s3.get_object_retention(Bucket=BUCKET, Key="nothing"), 404)
    refused("InvalidArgument", lambda: put("bad", ObjectLockMode="GOVERNANCE"), 400)
    refused("InvalidArgument", lambda: put("bad", ObjectLockRetainUntilDate=until), 400)
    past = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until - 2 * HOUR}
    refused("InvalidArgument", lambda: put("bad", **past), 400)
    refused("InvalidArgument", lambda: put("bad", ObjectLockMode="other", ObjectLockRetainUntilDate=until), 400)


def legal_holds():
    version = put("held", ObjectLockLegalHoldStatus="ON")
    assert s3.head_object(Bucket=BUCKET, Key="held")["ObjectLockLegalHoldStatus"] == "ON"
    assert s3.get_object_legal_hold(Bucket=BUCKET, Key="held")["LegalHold"] == {"Status": "ON"}
    remove = lambda: s3.delete_object(Bucket=BUCKET, Key="held", VersionId=version, BypassGovernanceRetention=True)
    refused("AccessDenied", remove, 403)
    lift = lambda: s3.put_object_legal_hold(Bucket=BUCKET, Key="held", LegalHold={"Status": "OFF"})
    refused("AccessDenied", lift, 403)
    odd = lambda: s3.put_object_legal_hold(Bucket=BUCKET, Key="held", LegalHold={"Status": "on"})
    refused("MalformedXML", odd, 400)
    put("held later")
    assert s3.get_object_legal_hold(Bucket=BUCKET, Key="held later")["LegalHold"] == {"Status": "OFF"}
    s3.put_object_legal_hold(Bucket=BUCKET, Key="held later", LegalHold={"Status": "ON"})
    assert s3.get_object_legal_hold(Bucket=BUCKET, Key="held later")["LegalHold"] == {"Status": "ON"}


def copies_and_parts_are_locked_as_asked():
    until = later()
    stated = {
        "ObjectLockMode": "GOVERNANCE",
        "ObjectLockRetainUntilDate": until,
        "ObjectLockLegalHoldStatus": "ON",
    }
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "held"}, **stated)
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts", **stated)["UploadId"]
    where = {"Bucket": BUCKET, "Key": "parts", "UploadId": upload}
    etag = s3.upload_part(PartNumber=1, Body=b"kept", **where)["ETag"]
    s3.complete_multipart_upload(MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}, **where)
    for key in ["copy", "parts"]:
        head = s3.head_object(Bucket=BUCKET, Key=key)
        assert {name: head[name] for name in stated} == stated, head
    # What a source is kept by does not go along.
    s3.copy_object(Bucket=BUCKET, Key="plain", CopySource={"Bucket": BUCKET, "Key": "copy"})
    assert "ObjectLockMode" not in s3.head_object(Bucket=BUCKET, Key="plain")


def locks():
    buckets_with_object_lock()
    retentions()
    legal_holds()
    copies_and_parts_are_locked_as_asked()
    refused("BucketNotEmpty", lambda: s3.delete_bucket(Bucket=BUCKET), 409)
