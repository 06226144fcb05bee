"""Tags of objects and of buckets, and cross-origin rules, as boto3 and browsers see them."""

import datetime
import http.client
import threading
import urllib.parse

from gateway import HTTP, REGION, client, headers_of, raw, read, refused, s3, signed, status_of

PLACE = {"LocationConstraint": REGION}
ORIGIN = "https://app.example"


def tag_set(**tags):
    return {"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]}


def tags_of(bucket, key, **options):
    found = s3.get_object_tagging(Bucket=bucket, Key=key, **options)["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def tag(bucket, key, version=None, **tags):
    named = {"VersionId": version} if version else {}
    return s3.put_object_tagging(Bucket=bucket, Key=key, Tagging=tag_set(**tags), **named)


def in_place():
    """Without versioning: everything but the tags is as it was."""
    bucket = "s3-tagged"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=PLACE)
    stated = {"Tagging": "old=1", "ContentType": "text/x", "Metadata": {"note": "kept"}, "ChecksumAlgorithm": "SHA256"}
    s3.put_object(Bucket=bucket, Key="k", Body=b"body" * 9_000, **stated)
    before = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert before["TagCount"] == 1, before
    answer = tag(bucket, "k", colour="S3-CANARY-red", größe="")
    assert status_of(answer) == 200 and "VersionId" not in answer, answer
    assert tags_of(bucket, "k") == {"colour": "S3-CANARY-red", "größe": ""}
    after = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert after["TagCount"] == 2 and after["Body"].read() == b"body" * 9_000, after
    for name in ["ETag", "LastModified", "ContentType", "Metadata", "ChecksumSHA256", "ContentLength"]:
        assert after[name] == before[name], (name, before, after)
    assert status_of(s3.delete_object_tagging(Bucket=bucket, Key="k")) == 204
    assert tags_of(bucket, "k") == {}
    assert "TagCount" not in s3.get_object(Bucket=bucket, Key="k")
    # Again, and an empty set: nothing is there to be removed.
    assert status_of(s3.delete_object_tagging(Bucket=bucket, Key="k")) == 204
    tag(bucket, "k")
    # An object in parts, and what was never tagged.
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts", Tagging="old=1")["UploadId"]
    parts = []
    for number, body in [(1, b"x" * (5 << 20)), (2, b"y")]:
        named = {"Bucket": bucket, "Key": "parts", "UploadId": upload, "PartNumber": number}
        parts.append({"PartNumber": number, "ETag": s3.upload_part(Body=body, **named)["ETag"]})
    s3.complete_multipart_upload(
        Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    tag(bucket, "parts", new="2")
    assert tags_of(bucket, "parts") == {"new": "2"}
    assert read(bucket, "parts") == b"x" * (5 << 20) + b"y"
    assert s3.head_object(Bucket=bucket, Key="parts", PartNumber=1)["PartsCount"] == 2


def versions_in_place():
    bucket = "s3-tagged-versions"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=PLACE)
    s3.put_object(Bucket=bucket, Key="k", Body=b"null")
    enabled = {"Status": "Enabled"}
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=enabled)
    one, two = (s3.put_object(Bucket=bucket, Key="k", Body=b)["VersionId"] for b in [b"1", b"2"])
    listed = lambda: [
        (v["VersionId"], v["ETag"], v["LastModified"], v["IsLatest"])
        for v in s3.list_object_versions(Bucket=bucket)["Versions"]
    ]
    before = listed()
    assert [v[0] for v in before] == [two, one, "null"], before
    assert tag(bucket, "k", now="2")["VersionId"] == two
    assert tag(bucket, "k", one, then="1")["VersionId"] == one
    assert tag(bucket, "k", "null", then="0")["VersionId"] == "null"
    assert listed() == before, "no version came or went"
    assert tags_of(bucket, "k") == {"now": "2"} == tags_of(bucket, "k", VersionId=two)
    assert tags_of(bucket, "k", VersionId=one) == {"then": "1"}
    assert tags_of(bucket, "k", VersionId="null") == {"then": "0"}
    assert s3.get_object_tagging(Bucket=bucket, Key="k", VersionId=one)["VersionId"] == one
    answer = s3.delete_object_tagging(Bucket=bucket, Key="k", VersionId=one)
    assert answer["VersionId"] == one and status_of(answer) == 204, answer
    assert tags_of(bucket, "k", VersionId=one) == {} and tags_of(bucket, "k") == {"now": "2"}
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    refused("NoSuchKey", lambda: tag(bucket, "k", a="1"), 404)
    refused("MethodNotAllowed", lambda: tag(bucket, "k", marker, a="1"), 405)
    refused("MethodNotAllowed", lambda: s3.delete_object_tagging(Bucket=bucket, Key="k", VersionId=marker), 405)
    tag(bucket, "k", two, now="3")
    assert tags_of(bucket, "k", VersionId=two) == {"now": "3"}


def refusals():
    bucket = "s3-tagged"
    s3.put_object(Bucket=bucket, Key="refused", Body=b"x", Tagging="kept=1")
    refused("NoSuchBucket", lambda: tag("s3-nobody", "k", a="1"), 404)
    refused("NoSuchKey", lambda: tag(bucket, "nothing", a="1"), 404)
    refused("NoSuchVersion", lambda: tag(bucket, "refused", "0" * 32, a="1"), 404)
    refused("InvalidArgument", lambda: tag(bucket, "refused", "x", a="1"), 400)
    many = {f"k{n}": "" for n in range(11)}
    refused("InvalidTag", lambda: tag(bucket, "refused", **many), 400)
    refused("InvalidTag", lambda: tag(bucket, "refused", **{"k" * 129: ""}), 400)
    refused("InvalidTag", lambda: tag(bucket, "refused", k="v" * 257), 400)
    refused("InvalidTag", lambda: tag(bucket, "refused", **{"aws:k": ""}), 400)
    twice = {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}
    refused("InvalidTag", lambda: s3.put_object_tagging(Bucket=bucket, Key="refused", Tagging=twice), 400)
    xml = lambda inner: f"<Tagging><TagSet>{inner}</TagSet></Tagging>".encode()
    for body in [
        b"<Tagging>",
        b"<Tagging/>",
        b"<Other/>",
        xml("<Tag><Key>a</Key></Tag>"),
        xml("<Tag><Value>a</Value></Tag>"),
        xml("<Tag><Key>a</Key><Key>b</Key><Value/></Tag>"),
    ]:
        raw("PUT", f"/{bucket}/refused?tagging=", 400, body=body, code="MalformedXML")
    refused(
        "AccessDenied",
        lambda: s3.put_object_tagging(
            Bucket=bucket, Key="refused", Tagging=tag_set(a="1"), ExpectedBucketOwner="1" * 12
        ),
        403,
    )
    # With what is sealed already it would not fit.
    large = {"k": "v" * 2_000}
    s3.put_object(Bucket=bucket, Key="large", Body=b"x", Metadata=large, CacheControl="c" * 13_000)
    full = {"k" * 120 + str(n): "v" * 250 for n in range(10)}
    refused("MetadataTooLarge", lambda: tag(bucket, "large", **full), 400)
    assert tags_of(bucket, "refused") == {"kept": "1"}


def copies():
    bucket = "s3-tagged"
    s3.put_object(Bucket=bucket, Key="source", Body=b"x", Tagging="put=1")
    tag(bucket, "source", changed="2")
    source = {"Bucket": bucket, "Key": "source"}
    copy = lambda key, **more: s3.copy_object(Bucket=bucket, Key=key, CopySource=source, **more)
    copy("as-it-is")
    copy("copied", TaggingDirective="COPY")
    copy("replaced", TaggingDirective="REPLACE", Tagging="other=3")
    assert tags_of(bucket, "as-it-is") == {"changed": "2"} == tags_of(bucket, "copied")
    assert tags_of(bucket, "replaced") == {"other": "3"}


def locked():
    """Locks keep versions, and not their tags; neither change undoes the other."""
    bucket = "s3-tagged-locked"
    s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True, CreateBucketConfiguration=PLACE)
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    kept = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"x", **kept)["VersionId"]
    tag(bucket, "k", version, state="closed")
    named = {"Bucket": bucket, "Key": "k", "VersionId": version}
    done = []

    def holds():
        for state in ["ON"] * 10:
            client().put_object_legal_hold(LegalHold={"Status": state}, **named)
            done.append(state)

    holder = threading.Thread(target=holds)
    holder.start()
    for n in range(10):
        tag(bucket, "k", version, state=str(n))
    holder.join()
    assert len(done) == 10, done
    head = s3.head_object(**named)
    assert head["ObjectLockLegalHoldStatus"] == "ON" and head["ObjectLockMode"] == "COMPLIANCE", head
    assert tags_of(bucket, "k", VersionId=version) == {"state": "9"}
    refused("AccessDenied", lambda: s3.delete_object(**named), 403)
    assert status_of(s3.delete_object_tagging(**named)) == 204
    refused("AccessDenied", lambda: s3.delete_object(**named), 403)


def taggers():
    """Of two at once each is done whole; the last of one of them is there in the end, and who reads sees no mix."""
    bucket = "s3-tagged"
    s3.put_object(Bucket=bucket, Key="busy", Body=b"x", Metadata={"note": "kept"})
    failed = []

    def run(who):
        mine = client()
        try:
            for n in range(20):
                pair = {"TagSet": [{"Key": name, "Value": f"{who}{n}"} for name in ["a", "b"]]}
                mine.put_object_tagging(Bucket=bucket, Key="busy", Tagging=pair)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(who,)) for who in "xyz"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen = tags_of(bucket, "busy")
        assert len(set(seen.values())) <= 1 and len(seen) in (0, 2), seen
    assert not failed, failed
    assert tags_of(bucket, "busy")["a"] in {"x19", "y19", "z19"}, tags_of(bucket, "busy")
    assert s3.head_object(Bucket=bucket, Key="busy")["Metadata"] == {"note": "kept"}


def of_buckets():
    bucket = "s3-tagged"
    get = lambda: s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
    refused("NoSuchTagSet", get, 404)
    refused("NoSuchBucket", lambda: s3.get_bucket_tagging(Bucket="s3-nobody"), 404)
    put = lambda tagging: s3.put_bucket_tagging(Bucket=bucket, Tagging=tagging)
    put(tag_set(team="cti", cost="17"))
    assert get() == tag_set(team="cti", cost="17")["TagSet"], get()
    put(tag_set(**{f"k{n}": "v" * 256 for n in range(50)}))
    assert len(get()) == 50
    refused("InvalidTag", lambda: put(tag_set(**{f"k{n}": "" for n in range(51)})), 400)
    refused("InvalidTag", lambda: put(tag_set(**{"k" * 129: ""})), 400)
    refused("InvalidTag", lambda: put(tag_set(k="v" * 257)), 400)
    refused("InvalidTag", lambda: put({"TagSet": [{"Key": "a", "Value": ""}] * 2}), 400)
    raw("PUT", f"/{bucket}?tagging=", 400, body=b"<Tagging><TagSet>", code="MalformedXML")
    assert len(get()) == 50
    assert status_of(s3.delete_bucket_tagging(Bucket=bucket)) == 204
    refused("NoSuchTagSet", get, 404)
    assert status_of(s3.delete_bucket_tagging(Bucket=bucket)) == 204


def tagging():
    for part in [in_place, versions_in_place, refusals, copies, locked, taggers, of_buckets]:
        part()


def ask(method, path, headers=None, status=200, body=b""):
    """A request as a browser makes it: nobody signs a preflight."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(HTTP).netloc, timeout=30)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == status, (answer.status, text)
    connection.close()
    return {name.lower(): value for name, value in answer.headers.items()}, text


def preflight(path, method="GET", origin=ORIGIN, asked=None, status=200):
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    if asked:
        headers["Access-Control-Request-Headers"] = asked
    return ask("OPTIONS", path, headers, status)


def made(method, path, origin, status=200):
    """A signed request of a page."""
    return ask(method, path, dict(signed(method, path, {"Origin": origin}).headers), status)[0]


def cors_rules():
    bucket = "s3-cors"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=PLACE)
    get = lambda: s3.get_bucket_cors(Bucket=bucket)["CORSRules"]
    put = lambda *rules: s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": list(rules)})
    refused("NoSuchCORSConfiguration", get, 404)
    refused("NoSuchBucket", lambda: s3.get_bucket_cors(Bucket="s3-nobody"), 404)
    rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]}
    with_ = lambda **more: dict(rule, **more)
    whole = {
        "ID": "whole",
        "AllowedOrigins": ["https://*.example"],
        "AllowedMethods": ["GET", "PUT", "POST", "DELETE", "HEAD"],
        "AllowedHeaders": ["x-amz-*", "Content-Type"],
        "ExposeHeaders": ["ETag", "x-amz-version-id"],
        "MaxAgeSeconds": 600,
    }
    put(whole, rule)
    assert get() == [whole, rule], get()
    put(*[rule] * 100)
    assert len(get()) == 100
    for code, rules in [
        ("InvalidRequest", [rule] * 101),
        ("InvalidRequest", [with_(AllowedMethods=["OPTIONS"])]),
        ("InvalidRequest", [with_(AllowedOrigins=["http://*.*"])]),
        ("InvalidRequest", [with_(AllowedHeaders=["*-*"])]),
        ("InvalidRequest", [with_(ExposeHeaders=["x-*"])]),
        ("InvalidRequest", [with_(ID="i" * 256)]),
        ("InvalidRequest", [with_(MaxAgeSeconds=-1)]),
        ("MalformedXML", []),
        ("MalformedXML", [with_(AllowedMethods=[])]),
        ("MalformedXML", [with_(AllowedOrigins=[])]),
    ]:
        refused(code, lambda: put(*rules), 400)
    raw("PUT", f"/{bucket}?cors=", 400, body=b"<CORSConfiguration>", code="MalformedXML")
    assert len(get()) == 100
    assert status_of(s3.delete_bucket_cors(Bucket=bucket)) == 204
    refused("NoSuchCORSConfiguration", get, 404)
    assert status_of(s3.delete_bucket_cors(Bucket=bucket)) == 204


def cors_answers():
    bucket, path = "s3-cors", "/s3-cors/k"
    s3.put_object(Bucket=bucket, Key="k", Body=b"shared")
    none = preflight(path, status=403)[1]
    assert b"<Code>AccessForbidden</Code>" in none, none
    # Nobody unsigned learns which buckets there are.
    assert preflight("/s3-nobody/k", status=403)[1] == none
    assert "access-control-allow-origin" not in made("GET", path, ORIGIN)
    first = {
        "AllowedOrigins": [ORIGIN],
        "AllowedMethods": ["GET", "PUT"],
        "AllowedHeaders": ["X-Amz-*", "authorization"],
        "ExposeHeaders": ["ETag"],
        "MaxAgeSeconds": 600,
    }
    second = {"AllowedOrigins": ["*"], "AllowedMethods": ["HEAD"]}
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [first, second]})
    said, body = preflight(path, "PUT", asked="x-amz-date, Authorization")
    assert body == b"" and said["access-control-allow-origin"] == ORIGIN, said
    assert said["access-control-allow-methods"] == "GET, PUT", said
    assert said["access-control-allow-headers"] == "x-amz-date, authorization", said
    assert said["access-control-max-age"] == "600" and said["access-control-allow-credentials"] == "true", said
    assert said["access-control-expose-headers"] == "ETag" and said["vary"].startswith("Origin"), said
    # Of the bucket itself, and of a key that is not there: rules are the bucket's.
    preflight("/s3-cors")
    preflight("/s3-cors/nothing")
    anyone = preflight(path, "HEAD", "https://other.example")[0]
    assert anyone["access-control-allow-origin"] == "*", anyone
    assert "access-control-allow-credentials" not in anyone, anyone
    for method, origin, asked in [
        ("DELETE", ORIGIN, None),
        ("GET", "https://other.example", None),
        ("GET", "http://app.example", None),
        ("PUT", ORIGIN, "content-type"),
    ]:
        refusal = preflight(path, method, origin, asked, 403)
        assert b"<Code>AccessForbidden</Code>" in refusal[1], refusal
        assert "access-control-allow-origin" not in refusal[0], refusal
    for headers in [{}, {"Origin": ORIGIN}, {"Access-Control-Request-Method": "GET"}]:
        assert b"<Code>BadRequest</Code>" in ask("OPTIONS", path, headers, 400)[1]
    # Requests of a page: told whatever the answer is, and to the origins of the rules alone.
    for method, where, status in [("GET", path, 200), ("GET", "/s3-cors/nothing", 404)]:
        said = made(method, where, ORIGIN, status)
        assert said["access-control-allow-origin"] == ORIGIN, said
        assert said["access-control-expose-headers"] == "ETag" and "vary" in said, said
    unsigned = ask("GET", path, {"Origin": ORIGIN}, 403)[0]
    assert unsigned["access-control-allow-origin"] == ORIGIN, unsigned
    assert "access-control-allow-origin" not in made("GET", path, "https://other.example")
    assert "access-control-allow-origin" not in headers_of(s3.get_object(Bucket=bucket, Key="k"))
    # A link that somebody signed, which a page reads.
    link = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    link = link.removeprefix(HTTP)
    said, body = ask("GET", link, {"Origin": ORIGIN})
    assert body == b"shared" and said["access-control-allow-origin"] == ORIGIN, said
    s3.delete_bucket_cors(Bucket=bucket)
    preflight(path, status=403)


def cors():
    cors_rules()
    cors_answers()


def configured_encryption():
    """What is done to every object is accepted, and nothing else."""
    bucket = "s3-one"
    get = lambda: s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    own = get()[0]["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"]

    def put(algorithm="aws:kms", key=None, rules=1, **more):
        default = {"SSEAlgorithm": algorithm}
        if key is not None:
            default["KMSMasterKeyID"] = key
        rule = dict({"ApplyServerSideEncryptionByDefault": default}, **more)
        configuration = {"Rules": [rule] * rules}
        return s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=configuration)

    before = get()
    put()
    put(key=own)
    put(BucketKeyEnabled=False)
    refused("KMS.NotFoundException", lambda: put(key="0" * 32), 400)
    refused("NotImplemented", lambda: put("AES256"), 501)
    refused("NotImplemented", lambda: put("aws:kms:dsse"), 501)
    refused("NotImplemented", lambda: put(BucketKeyEnabled=True), 501)
    refused("MalformedXML", lambda: put(rules=2), 400)
    empty = {"Rules": [{}]}
    refused(
        "MalformedXML",
        lambda: s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=empty),
        400,
    )
    refused("NoSuchBucket", lambda: s3.delete_bucket_encryption(Bucket="s3-nobody"), 404)
    assert status_of(s3.delete_bucket_encryption(Bucket=bucket)) == 204
    assert get() == before, get()
    owned = lambda what: s3.put_bucket_ownership_controls(
        Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": what}]}
    )
    assert status_of(owned("BucketOwnerEnforced")) == 200
    refused("NotImplemented", lambda: owned("ObjectWriter"), 501)
