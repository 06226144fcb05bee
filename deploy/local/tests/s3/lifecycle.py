"""Suspended versioning, and lifecycle configurations, as boto3 sees them."""

from gateway import REGION, read, refused, s3, status_of

PLACE = {"LocationConstraint": REGION}


def versioning(bucket, status):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == status


def suspended():
    bucket = "s3-suspended"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=PLACE)
    put = lambda body, key="k", **more: s3.put_object(Bucket=bucket, Key=key, Body=body, **more).get("VersionId")
    versions = lambda: [(v["VersionId"], v["IsLatest"]) for v in s3.list_object_versions(Bucket=bucket)["Versions"]]
    assert put(b"before") is None
    versioning(bucket, "Enabled")
    kept = put(b"kept")
    versioning(bucket, "Suspended")
    # The null version from before versioning is replaced, though it stands under one that is kept.
    for body in [b"first", b"second"]:
        assert put(body) == "null"
        assert versions() == [("null", True), (kept, False)], versions()
    assert read(bucket, "k") == read(bucket, "k", VersionId="null") == b"second"
    assert read(bucket, "k", VersionId=kept) == b"kept"
    assert s3.head_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    deleted = s3.delete_object(Bucket=bucket, Key="k")
    assert deleted["DeleteMarker"] is True and deleted["VersionId"] == "null", deleted
    listed = s3.list_object_versions(Bucket=bucket)
    assert [(m["VersionId"], m["IsLatest"]) for m in listed["DeleteMarkers"]] == [("null", True)], listed
    assert versions() == [(kept, False)], listed
    refused("NoSuchKey", lambda: read(bucket, "k"), 404)
    refused("MethodNotAllowed", lambda: read(bucket, "k", VersionId="null"), 405)
    removed = s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert removed["DeleteMarker"] is True and removed["VersionId"] == "null", removed
    assert read(bucket, "k") == b"kept"
    refused("NoSuchVersion", lambda: read(bucket, "k", VersionId="null"), 404)
    source = {"Bucket": bucket, "Key": "k", "VersionId": kept}
    copied = s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)
    assert copied["VersionId"] == "null" and copied["CopySourceVersionId"] == kept, copied
    where = {"Bucket": bucket, "Key": "parts", "UploadId": None}
    where["UploadId"] = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    etag = s3.upload_part(PartNumber=1, Body=b"parts", **where)["ETag"]
    named = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    for _ in range(2):
        assert s3.complete_multipart_upload(MultipartUpload=named, **where)["VersionId"] == "null"
    assert read(bucket, "parts", VersionId="null") == b"parts"
    put(b"null again")
    versioning(bucket, "Enabled")
    again = put(b"again")
    listed = s3.list_object_versions(Bucket=bucket, Prefix="k")["Versions"]
    assert [v["VersionId"] for v in listed] == [again, "null", kept], listed
    assert read(bucket, "k", VersionId="null") == b"null again"
    odd = lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Off"})
    refused("InvalidRequest", odd, 400)


def lifecycles():
    bucket = "s3-lifecycle"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=PLACE)
    get = lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    put = lambda *rules: s3.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)}
    )
    refused("NoSuchLifecycleConfiguration", get, 404)
    rules = [
        {
            "ID": "tmp",
            "Status": "Enabled",
            "Filter": {"Prefix": "tmp/"},
            "Expiration": {"Days": 7},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30, "NewerNoncurrentVersions": 3},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
        },
        {
            "ID": "markers",
            "Status": "Disabled",
            "Filter": {"Prefix": ""},
            "Expiration": {"ExpiredObjectDeleteMarker": True},
        },
    ]
    put(*rules)
    assert get() == rules, get()
    put({"Status": "Enabled", "Prefix": "old/", "Expiration": {"Days": 1}})
    only = get()
    assert len(only) == 1 and only[0]["ID"] and only[0]["Filter"] == {"Prefix": "old/"}, only
    rule = lambda **more: dict({"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}, **more)
    tag = {"Key": "a", "Value": "b"}
    for other in [
        {"Filter": {"Tag": tag}},
        {"Filter": {"And": {"Prefix": "p", "Tags": [tag]}}},
        {"Filter": {"ObjectSizeGreaterThan": 1}},
        {"Transitions": [{"Days": 30, "StorageClass": "GLACIER"}]},
        {"NoncurrentVersionTransitions": [{"NoncurrentDays": 30, "StorageClass": "GLACIER"}]},
        {"Expiration": {"Date": "2030-01-01T00:00:00Z"}},
    ]:
        refused("NotImplemented", lambda: put(rule(**other)), 501)
    refused("InvalidArgument", lambda: put(rule(Expiration={"Days": 0})), 400)
    refused("InvalidArgument", lambda: put(rule(), rule()), 400)
    refused("MalformedXML", lambda: put(rule(Expiration={"Days": 1, "ExpiredObjectDeleteMarker": True})), 400)
    refused("MalformedXML", lambda: put(rule(Prefix="p")), 400)
    none = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}}
    refused("InvalidRequest", lambda: put(none), 400)
    refused("NoSuchBucket", lambda: s3.get_bucket_lifecycle_configuration(Bucket="s3-nobody"), 404)
    # What was refused changed nothing.
    assert get() == only, get()
    assert status_of(s3.delete_bucket_lifecycle(Bucket=bucket)) == 204
    refused("NoSuchLifecycleConfiguration", get, 404)
    s3.delete_bucket(Bucket=bucket)
