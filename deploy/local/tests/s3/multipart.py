"""Uploads in parts, as boto3 sees them."""

import base64
import hashlib
import os
import tempfile
import zlib

from boto3.s3.transfer import TransferConfig
from botocore.client import Config

from gateway import REGION, client, headers_of, is_kms, raw, read, refused, s3, status_of

BUCKET = "s3-parts"
LEAST = 5 << 20


def b64(value):
    return base64.b64encode(value).decode()


def crc32(body):
    return b64(zlib.crc32(body).to_bytes(4, "big"))


def sha256(body):
    return b64(hashlib.sha256(body).digest())


def begin(key, **stated):
    return s3.create_multipart_upload(Bucket=BUCKET, Key=key, **stated)["UploadId"]


def put(key, upload, number, body, **stated):
    return s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body, **stated)


def complete(key, upload, parts, **stated):
    named = [dict(zip(["PartNumber", "ETag"], part[:2]), **(part[2] if part[2:] else {})) for part in parts]
    return s3.complete_multipart_upload(
        Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": named}, **stated
    )


def a_whole_session():
    key = "in parts/\u00e4"
    begun = s3.create_multipart_upload(
        Bucket=BUCKET, Key=key, ContentType="text/x-parts", Metadata={"note": "S3-CANARY-parts"}, Tagging="a=1"
    )
    is_kms(begun)
    upload = begun["UploadId"]
    assert len(upload) == 32 and begun["Bucket"] == BUCKET and begun["Key"] == key, begun
    bodies = {2: os.urandom(LEAST), 5: os.urandom(LEAST + 1), 9: b"S3-CANARY-part" * 100}
    etags = {}
    for number in [9, 2, 5]:
        answer = put(key, upload, number, bodies[number])
        is_kms(answer)
        assert len(answer["ETag"]) == 34 and answer["ChecksumCRC64NVME"], answer
        etags[number] = answer["ETag"]
    refused("NoSuchKey", lambda: s3.get_object(Bucket=BUCKET, Key=key), 404)
    listed = s3.list_parts(Bucket=BUCKET, Key=key, UploadId=upload)
    found = [(p["PartNumber"], p["ETag"], p["Size"]) for p in listed["Parts"]]
    assert found == [(n, etags[n], len(bodies[n])) for n in [2, 5, 9]], listed
    assert listed["StorageClass"] == "STANDARD" and listed["Owner"]["ID"] == listed["Initiator"]["ID"], listed
    page = s3.list_parts(Bucket=BUCKET, Key=key, UploadId=upload, MaxParts=2)
    assert page["IsTruncated"] and page["NextPartNumberMarker"] == 5 and len(page["Parts"]) == 2, page
    pages = s3.get_paginator("list_parts").paginate(
        Bucket=BUCKET, Key=key, UploadId=upload, PaginationConfig={"PageSize": 1}
    )
    assert [p["PartNumber"] for page in pages for p in page["Parts"]] == [2, 5, 9]
    # Put again, the one before is no part any more.
    before, etags[5] = etags[5], put(key, upload, 5, bodies[5])["ETag"]
    named = [(n, etags[n]) for n in [2, 5, 9]]
    refused("InvalidPart", lambda: complete(key, upload, [named[0], (5, before)]), 400)
    refused("InvalidPart", lambda: complete(key, upload, [(3, etags[2])]), 400)
    refused("InvalidPart", lambda: complete(key, upload, [(2, '"no part has it"')]), 400)
    refused("InvalidPartOrder", lambda: complete(key, upload, [named[1], named[0]]), 400)
    refused("InvalidPartOrder", lambda: complete(key, upload, [named[0], named[0]]), 400)
    refused("MalformedXML", lambda: complete(key, upload, []), 400)
    small = put(key, upload, 10, b"small")["ETag"]
    refused("EntityTooSmall", lambda: complete(key, upload, named + [(10, small)]), 400)
    refused("InvalidRequest", lambda: complete(key, upload, named, MpuObjectSize=1), 400)
    for number in [0, 10_001]:
        refused("InvalidArgument", lambda: put(key, upload, number, b"x"), 400)
    for nobody in ["0" * 32, "made-up"]:
        refused("NoSuchUpload", lambda: put(key, nobody, 1, b"x"), 404)
        refused("NoSuchUpload", lambda: complete(key, nobody, named), 404)
        refused("NoSuchUpload", lambda: s3.list_parts(Bucket=BUCKET, Key=key, UploadId=nobody), 404)
        refused("NoSuchUpload", lambda: s3.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=nobody), 404)
    refused("NoSuchUpload", lambda: put("another", upload, 1, b"x"), 404)
    done = complete(key, upload, named)
    is_kms(done)
    assert done["Key"] == key and done["ChecksumType"] == "FULL_OBJECT" and "VersionId" not in done, done
    # A retry is answered as the first; who names other parts asks for another object.
    again = complete(key, upload, named)
    for field in ["ETag", "ChecksumCRC64NVME", "ChecksumType", "SSEKMSKeyId"]:
        assert again[field] == done[field], (field, again)
    refused("NoSuchUpload", lambda: complete(key, upload, named[1:]), 404)
    refused("NoSuchUpload", lambda: put(key, upload, 1, b"x"), 404)
    refused("NoSuchUpload", lambda: s3.list_parts(Bucket=BUCKET, Key=key, UploadId=upload), 404)
    refused("NoSuchUpload", lambda: s3.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload), 404)
    what_it_became(key, done, [bodies[n] for n in [2, 5, 9]])


def what_it_became(key, done, bodies):
    whole = b"".join(bodies)
    got = s3.get_object(Bucket=BUCKET, Key=key)
    assert got["Body"].read() == whole and got["ETag"] == done["ETag"], got
    assert got["ContentType"] == "text/x-parts" and got["Metadata"] == {"note": "S3-CANARY-parts"}, got
    assert got["TagCount"] == 1 and "PartsCount" not in got, got
    # The same checksum as of the same bytes in one piece.
    once, _ = raw("PUT", f"/{BUCKET}/once", 200, body=whole)
    assert once.headers["x-amz-checksum-crc64nvme"] == done["ChecksumCRC64NVME"], once.headers
    head = s3.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")
    assert head["ChecksumCRC64NVME"] == done["ChecksumCRC64NVME"], head
    size, edge = len(whole), len(bodies[0])
    for first, last in [(0, 0), (edge - 1, edge), (edge, size - 1), (10, size - 10), (size - 1, size - 1)]:
        assert read(BUCKET, key, Range=f"bytes={first}-{last}") == whole[first : last + 1], (first, last)
    at = 0
    for place, body in enumerate(bodies, 1):
        last = at + len(body) - 1
        for call in [s3.get_object, s3.head_object]:
            part = call(Bucket=BUCKET, Key=key, PartNumber=place)
            assert status_of(part) == 206 and part["PartsCount"] == 3, part
            assert headers_of(part)["content-range"] == f"bytes {at}-{last}/{size}", part
        assert read(BUCKET, key, PartNumber=place) == body, place
        at = last + 1
    for none in [0, 4]:
        refused("InvalidPartNumber", lambda: s3.get_object(Bucket=BUCKET, Key=key, PartNumber=none), 416)
    wanted = ["ObjectParts", "Checksum", "ObjectSize", "ETag"]
    told = s3.get_object_attributes(Bucket=BUCKET, Key=key, ObjectAttributes=wanted)
    parts = told["ObjectParts"]
    assert parts["TotalPartsCount"] == 3 and not parts["IsTruncated"], told
    assert [(p["PartNumber"], p["Size"]) for p in parts["Parts"]] == [
        (place, len(body)) for place, body in enumerate(bodies, 1)
    ], parts
    assert all(p["ChecksumCRC64NVME"] for p in parts["Parts"]) and told["ObjectSize"] == size, told
    page = s3.get_object_attributes(Bucket=BUCKET, Key=key, ObjectAttributes=wanted, MaxParts=2)["ObjectParts"]
    assert page["IsTruncated"] and page["NextPartNumberMarker"] == 2 and len(page["Parts"]) == 2, page
    page = s3.get_object_attributes(
        Bucket=BUCKET, Key=key, ObjectAttributes=wanted, MaxParts=2, PartNumberMarker=2
    )["ObjectParts"]
    assert not page["IsTruncated"] and [p["PartNumber"] for p in page["Parts"]] == [3], page
    whole_put = s3.get_object_attributes(Bucket=BUCKET, Key="once", ObjectAttributes=wanted)
    assert "ObjectParts" not in whole_put, whole_put
    listed = {o["Key"]: o for o in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert listed[key]["Size"] == size and listed[key]["ETag"] == done["ETag"], listed


def checksums_of_parts():
    bodies = [os.urandom(LEAST), os.urandom(1000)]
    whole = b"".join(bodies)
    upload = begin("composite", ChecksumAlgorithm="SHA256")
    parts = []
    for number, body in enumerate(bodies, 1):
        answer = put("composite", upload, number, body, ChecksumAlgorithm="SHA256")
        assert answer["ChecksumSHA256"] == sha256(body), answer
        parts.append((number, answer["ETag"], {"ChecksumSHA256": answer["ChecksumSHA256"]}))
    listed = s3.list_parts(Bucket=BUCKET, Key="composite", UploadId=upload)
    assert listed["ChecksumAlgorithm"] == "SHA256" and listed["ChecksumType"] == "COMPOSITE", listed
    assert [p["ChecksumSHA256"] for p in listed["Parts"]] == [sha256(body) for body in bodies], listed
    other = lambda: put("composite", upload, 3, b"x", ChecksumAlgorithm="CRC32")
    refused("InvalidRequest", other, 400)
    wrong = {"ChecksumSHA256": sha256(b"another")}
    refused("BadDigest", lambda: put("composite", upload, 3, b"x", **wrong), 400)
    refused("InvalidRequest", lambda: complete("composite", upload, [part[:2] for part in parts]), 400)
    refused("InvalidPart", lambda: complete("composite", upload, [parts[0][:2] + (wrong,)]), 400)
    refused("InvalidRequest", lambda: complete("composite", upload, parts, ChecksumType="FULL_OBJECT"), 400)
    refused("BadDigest", lambda: complete("composite", upload, parts, **wrong), 400)
    expected = sha256(b"".join(hashlib.sha256(body).digest() for body in bodies))
    done = complete("composite", upload, parts, ChecksumType="COMPOSITE", ChecksumSHA256=f"{expected}-2")
    assert done["ChecksumSHA256"] == f"{expected}-2" and done["ChecksumType"] == "COMPOSITE", done
    again = complete("composite", upload, parts)
    assert again["ChecksumSHA256"] == f"{expected}-2" and again["ChecksumType"] == "COMPOSITE", again
    for call in [s3.get_object, s3.head_object]:
        got = call(Bucket=BUCKET, Key="composite", ChecksumMode="ENABLED")
        assert got["ChecksumSHA256"] == f"{expected}-2" and got["ChecksumType"] == "COMPOSITE", got
    assert read(BUCKET, "composite", ChecksumMode="ENABLED") == whole
    told = s3.get_object_attributes(Bucket=BUCKET, Key="composite", ObjectAttributes=["Checksum"])["Checksum"]
    assert told["ChecksumSHA256"] == expected and told["ChecksumType"] == "COMPOSITE", told
    listed = {o["Key"]: o for o in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert listed["composite"]["ChecksumType"] == "COMPOSITE", listed
    # A copy is in one piece, and its checksum of its bytes.
    source = {"Bucket": BUCKET, "Key": "composite"}
    copied = s3.copy_object(Bucket=BUCKET, Key="copy", CopySource=source)["CopyObjectResult"]
    assert copied["ChecksumSHA256"] == sha256(whole) and copied["ChecksumType"] == "FULL_OBJECT", copied

    upload = begin("full", ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    parts = [(n, put("full", upload, n, body, ChecksumAlgorithm="CRC32")["ETag"]) for n, body in enumerate(bodies, 1)]
    refused("BadDigest", lambda: complete("full", upload, parts, ChecksumCRC32=crc32(b"another")), 400)
    refused("InvalidRequest", lambda: complete("full", upload, parts, ChecksumSHA256=sha256(whole)), 400)
    done = complete("full", upload, parts, ChecksumCRC32=crc32(whole), MpuObjectSize=len(whole))
    assert done["ChecksumCRC32"] == crc32(whole) and done["ChecksumType"] == "FULL_OBJECT", done
    got = s3.get_object(Bucket=BUCKET, Key="full", ChecksumMode="ENABLED")
    assert got["ChecksumCRC32"] == crc32(whole) and got["Body"].read() == whole


def refusals_when_it_begins():
    begin_with = lambda **stated: lambda: begin("refused", **stated)
    refused("InvalidRequest", begin_with(ChecksumAlgorithm="SHA256", ChecksumType="FULL_OBJECT"), 400)
    refused("InvalidRequest", begin_with(ChecksumAlgorithm="CRC64NVME", ChecksumType="COMPOSITE"), 400)
    refused("NotImplemented", begin_with(ServerSideEncryption="AES256"), 501)
    refused("KMS.NotFoundException", begin_with(ServerSideEncryption="aws:kms", SSEKMSKeyId="0" * 32), 400)
    refused("NotImplemented", begin_with(StorageClass="GLACIER"), 501)
    refused("AccessControlListNotSupported", begin_with(ACL="public-read"), 400)
    refused("MetadataTooLarge", begin_with(Metadata={"k": "v" * 2048}), 400)
    refused("NoSuchBucket", lambda: s3.create_multipart_upload(Bucket="s3-nobody", Key="k"), 404)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def conditions_of_a_completion():
    s3.put_object(Bucket=BUCKET, Key="taken", Body=b"taken")
    upload = begin("taken")
    part = (1, put("taken", upload, 1, b"in one part")["ETag"])
    refused("PreconditionFailed", lambda: complete("taken", upload, [part], IfNoneMatch="*"), 412)
    refused("PreconditionFailed", lambda: complete("taken", upload, [part], IfMatch='"other"'), 412)
    assert read(BUCKET, "taken") == b"taken"
    etag = s3.head_object(Bucket=BUCKET, Key="taken")["ETag"]
    complete("taken", upload, [part], IfMatch=etag)
    assert read(BUCKET, "taken") == b"in one part"
    upload = begin("free")
    part = (1, put("free", upload, 1, b"free")["ETag"])
    refused("NoSuchKey", lambda: complete("free", upload, [part], IfMatch=etag), 404)
    first = complete("free", upload, [part], IfNoneMatch="*")
    # The retry of one whose answer was lost: what is there now is its own.
    assert complete("free", upload, [part], IfNoneMatch="*")["ETag"] == first["ETag"]


def parts_that_are_copied():
    body = os.urandom(LEAST + 100)
    s3.put_object(Bucket=BUCKET, Key="source", Body=body)
    source = {"Bucket": BUCKET, "Key": "source"}
    upload = begin("copied")
    copy = lambda number, source=source, **stated: s3.upload_part_copy(
        Bucket=BUCKET, Key="copied", UploadId=upload, PartNumber=number, CopySource=source, **stated
    )
    first = copy(1)
    is_kms(first)
    second = copy(2, CopySourceRange="bytes=10-99")["CopyPartResult"]
    for bad in ["bytes=0-", "bytes=-5", "0-5", f"bytes=0-{len(body)}", "bytes=9-5"]:
        refused("InvalidArgument", lambda: copy(3, CopySourceRange=bad), 400)
    etag = s3.head_object(Bucket=BUCKET, Key="source")["ETag"]
    copy(3, CopySourceIfMatch=etag)
    refused("PreconditionFailed", lambda: copy(3, CopySourceIfNoneMatch=etag), 412)
    refused("NoSuchKey", lambda: copy(3, {"Bucket": BUCKET, "Key": "nothing"}), 404)
    refused("NoSuchBucket", lambda: copy(3, {"Bucket": "s3-nobody", "Key": "k"}), 404)
    done = complete("copied", upload, [(1, first["CopyPartResult"]["ETag"]), (2, second["ETag"])])
    assert read(BUCKET, "copied") == body + body[10:100] and done["ChecksumCRC64NVME"], done


def uploads_under_way():
    wanted = ["a/1", "a/1", "a/2", "b", "c/1"]
    ids = [begin(key) for key in wanted]
    every = list(zip(wanted, ids))
    for size in [1, 2, 1000]:
        pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": size})
        found = [(u["Key"], u["UploadId"]) for page in pages for u in page.get("Uploads", [])]
        assert found == every, (size, found)
        pages = s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=BUCKET, Delimiter="/", PaginationConfig={"PageSize": size}
        )
        pages = list(pages)
        found = [u["Key"] for page in pages for u in page.get("Uploads", [])]
        prefixes = [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])]
        assert found == ["b"] and prefixes == ["a/", "c/"], (size, found, prefixes)
    page = s3.list_multipart_uploads(Bucket=BUCKET, Prefix="a/", KeyMarker="a/1", UploadIdMarker=ids[0])
    assert [u["UploadId"] for u in page["Uploads"]] == ids[1:3], page
    page = s3.list_multipart_uploads(Bucket=BUCKET, KeyMarker="a/1")
    assert [u["UploadId"] for u in page["Uploads"]] == ids[2:], page
    assert page["Uploads"][0]["Initiator"]["ID"] == page["Uploads"][0]["Owner"]["ID"], page
    refused("InvalidArgument", lambda: s3.list_multipart_uploads(Bucket=BUCKET, KeyMarker="b", UploadIdMarker="x"), 400)
    put("b", ids[3], 1, b"x")
    for key, upload in every:
        answer = s3.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)
        assert status_of(answer) == 204, answer
    refused("NoSuchUpload", lambda: put("b", ids[3], 2, b"x"), 404)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def transfers_of_files():
    """What `aws s3 cp` does: parts put and read at once, each under a checksum."""
    body = os.urandom((18 << 20) + 7)
    config = TransferConfig(multipart_threshold=LEAST, multipart_chunksize=LEAST, max_concurrency=4)
    # Trailers and retries as clients have them by default.
    patient = client(config=Config(retries={"max_attempts": 3}))
    with tempfile.TemporaryDirectory() as folder:
        here, there = os.path.join(folder, "here"), os.path.join(folder, "there")
        with open(here, "wb") as file:
            file.write(body)
        patient.upload_file(here, BUCKET, "file", Config=config)
        patient.download_file(BUCKET, "file", there, Config=config)
        with open(there, "rb") as file:
            assert file.read() == body
        patient.copy({"Bucket": BUCKET, "Key": "file"}, BUCKET, "file again", Config=config)
        assert read(BUCKET, "file again") == body
    assert s3.head_object(Bucket=BUCKET, Key="file", PartNumber=1)["PartsCount"] == 4


def versions_in_parts():
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    upload = begin("versioned")
    part = (1, put("versioned", upload, 1, b"first")["ETag"])
    first = complete("versioned", upload, [part])
    assert first["VersionId"] and complete("versioned", upload, [part])["VersionId"] == first["VersionId"], first
    s3.put_object(Bucket=BUCKET, Key="versioned", Body=b"second")
    assert read(BUCKET, "versioned", VersionId=first["VersionId"]) == b"first"
    # Its retry does not bring the first one back.
    assert complete("versioned", upload, [part])["VersionId"] == first["VersionId"]
    assert read(BUCKET, "versioned") == b"second"
    s3.delete_object(Bucket=BUCKET, Key="versioned", VersionId=first["VersionId"])
    refused("NoSuchUpload", lambda: complete("versioned", upload, [part]), 404)


def multipart():
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    a_whole_session()
    checksums_of_parts()
    refusals_when_it_begins()
    conditions_of_a_completion()
    parts_that_are_copied()
    uploads_under_way()
    transfers_of_files()
    versions_in_parts()
