"""What strangers and spoilt clients send: each is answered by a clear error of S3, in bounded time and memory.

A client that does nothing wrong is served all the while.
"""

import base64
import os
import re
import socket
import ssl
import threading
import time
import zlib

from wire import ID, PLACES, SECRET, UNSIGNED, Answer, Signer, Wire, ask, chunked, head_of, now, presigned, sha256, signed, target_of

PID = os.environ["S3_GATEWAY_PID"]
# Seconds that the gateway waits for a client, as it is configured here.
PATIENCE = float(os.environ["S3_STALL_SECONDS"])
BUCKET = "/hostile"
OBJECT = BUCKET + "/there"
BODY = b"0123456789" * 10
MIB = 1 << 20
# What the gateway holds at most at any time.
RSS_MIB_MAX = 256

wrong = []


def expect(what, answer, status, code=None):
    statuses = status if isinstance(status, tuple) else (status,)
    fine = answer.status in statuses and (code is None or answer.code == code)
    if not fine:
        wrong.append(f"{what}: {answer} instead of {status} {code or ''}")
        print("WRONG", wrong[-1])
    return fine


def rss_mib():
    with open(f"/proc/{PID}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) >> 10


class Watch(threading.Thread):
    """A good client, and how much memory the gateway takes meanwhile."""

    def __init__(self):
        super().__init__(daemon=True)
        self.over, self.served, self.failed, self.longest, self.most = threading.Event(), 0, [], 0.0, 0

    def run(self):
        wire = None
        while not self.over.is_set():
            began = time.monotonic()
            try:
                wire = wire or Wire(timeout=20)
                wire.send(signed("GET", OBJECT))
                answer = wire.answer()
                if answer.status == 503:
                    # Slowed down is not refused: a client comes again.
                    time.sleep(0.2)
                elif answer.status != 200 or answer.body != BODY:
                    self.failed.append(str(answer))
                    wire = None
                else:
                    self.served += 1
                    self.longest = max(self.longest, time.monotonic() - began)
            except OSError as error:
                self.failed.append(repr(error))
                wire = None
            self.most = max(self.most, rss_mib())
            time.sleep(0.02)


def xml_bodies():
    """Spoilt bodies, and whether only their size is wrong."""
    bomb = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "lol">{bomb}]>'
    outside = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    yield "nothing", lambda root: b"", "MissingRequestBodyError"
    yield "no XML", lambda root: b"hello", "MalformedXML"
    yield "half a tag", lambda root: b"<" + root.encode(), "MalformedXML"
    yield "no end", lambda root: f"<{root}>".encode(), "MalformedXML"
    yield "another root", lambda root: b"<Other></Other>", "MalformedXML"
    yield "two roots", lambda root: f"<{root}></{root}><{root}/>".encode(), "MalformedXML"
    yield "crossed tags", lambda root: f"<{root}><A></{root}></A>".encode(), "MalformedXML"
    yield "no UTF-8", lambda root: f"<{root}>".encode() + b"\xff\xfe\xc0\xaf" + f"<{root}>".encode(), "MalformedXML"
    yield "UTF-16", lambda root: f"<{root}></{root}>".encode("utf-16"), "MalformedXML"
    yield "zeroes", lambda root: bytes(1000), "MalformedXML"
    yield "a bomb", lambda root: (bomb + f"<{root}>&a9;</{root}>").encode(), "MalformedXML"
    yield "a file", lambda root: (outside + f"<{root}>&e;</{root}>").encode(), "MalformedXML"
    yield "a bad character", lambda root: f"<{root}>&#x110000;&#0;</{root}>".encode(), "MalformedXML"
    yield "depth", lambda root: f"<{root}>".encode() + b"<a>" * 500_000, "MalformedXML"
    yield "depth, closed", lambda root: f"<{root}>".encode() + b"<a>" * 300_000 + b"</a>" * 300_000 + f"</{root}>".encode(), None
    yield "attributes", lambda root: (f"<{root} " + " ".join(f'a{n}="{n}"' for n in range(200_000)) + ">").encode(), "MalformedXML"
    yield "one long name", lambda root: b"<" + b"a" * (3 * MIB) + b">", "MalformedXML"
    yield "too many bytes", lambda root: f"<{root}>".encode() + b" " * (4 * MIB), "MaxMessageLengthExceeded"


XML = [
    ("CreateBucket", "PUT", "/hostile-new", [], "CreateBucketConfiguration"),
    ("PutBucketVersioning", "PUT", BUCKET, [("versioning", None)], "VersioningConfiguration"),
    ("PutBucketLifecycleConfiguration", "PUT", BUCKET, [("lifecycle", None)], "LifecycleConfiguration"),
    ("PutObjectLockConfiguration", "PUT", BUCKET, [("object-lock", None)], "ObjectLockConfiguration"),
    ("PutBucketAcl", "PUT", BUCKET, [("acl", None)], "AccessControlPolicy"),
    ("DeleteObjects", "POST", BUCKET, [("delete", None)], "Delete"),
    ("CompleteMultipartUpload", "POST", OBJECT, [("uploadId", "d5" * 16)], "CompleteMultipartUpload"),
    ("PutObjectRetention", "PUT", OBJECT, [("retention", None)], "Retention"),
    ("PutObjectLegalHold", "PUT", OBJECT, [("legal-hold", None)], "LegalHold"),
    ("PutObjectAcl", "PUT", OBJECT, [("acl", None)], "AccessControlPolicy"),
]
# A body is theirs to leave out.
MAY_BE_NOTHING = {
    "CreateBucket": ((200, 409), None),
    "PutBucketAcl": (200, None),
    "PutObjectAcl": (200, None),
    "PutObjectLockConfiguration": (400, "MalformedXML"),
    "PutBucketLifecycleConfiguration": (400, "MalformedXML"),
    "PutObjectRetention": (400, "MalformedXML"),
    "PutObjectLegalHold": (400, "MalformedXML"),
    "CompleteMultipartUpload": (400, "MalformedXML"),
}


def xml(tls):
    for operation, method, path, query, root in XML:
        for what, make, code in xml_bodies():
            # What is not known is passed over, as deep as it is; then what is missing counts.
            body, status = make(root), 400 if code else (200, 400, 404, 409)
            if not body and operation in MAY_BE_NOTHING:
                status, code = MAY_BE_NOTHING[operation]
            began = time.monotonic()
            answer = ask(signed(method, path, query, body=body), tls)
            expect(f"{operation}, {what}", answer, status, code)
            took = time.monotonic() - began
            assert took < 5, f"{operation}, {what}: {took:.1f} s"


def parts(tls):
    begun = ask(signed("POST", BUCKET + "/parts", [("uploads", None)]), tls)
    assert begun.status == 200, begun
    upload = begun.body.decode().split("<UploadId>")[1].split("<")[0]

    def complete(numbers):
        part = lambda n: f'<Part><PartNumber>{n}</PartNumber><ETag>"{"ab" * 16}"</ETag></Part>'
        body = "<CompleteMultipartUpload>" + "".join(map(part, numbers)) + "</CompleteMultipartUpload>"
        return ask(signed("POST", BUCKET + "/parts", [("uploadId", upload)], body=body.encode()), tls)

    expect("10,000 parts that are not there", complete(range(1, 10_001)), 400, "InvalidPart")
    expect("10,001 parts", complete(range(1, 10_002)), 400, "InvalidArgument")
    expect("10,000 times one part", complete([1] * 10_000), 400, "InvalidPartOrder")
    expect("40,000 parts", complete(range(1, 40_001)), 400, "InvalidArgument")
    expect("parts backwards", complete([2, 1]), 400, "InvalidPartOrder")
    for number in ("0", "-1", "10001", "4294967297", "99999999999999999999", "x"):
        expect(f"completing part {number}", complete([number]), 400)
        put = signed("PUT", BUCKET + "/parts", [("partNumber", number), ("uploadId", upload)], body=b"x")
        expect(f"putting part {number}", ask(put, tls), 400, "InvalidArgument")
    aborted = ask(signed("DELETE", BUCKET + "/parts", [("uploadId", upload)]), tls)
    expect("the upload is aborted", aborted, 204)
    expect("the upload is gone", complete([1]), 404, "NoSuchUpload")

    def delete(count, key="k"):
        body = "<Delete>" + f"<Object><Key>{key}</Key></Object>" * count + "</Delete>"
        return ask(signed("POST", BUCKET, [("delete", None)], body=body.encode()), tls)

    expect("1,000 deleted", delete(1_000), 200)
    expect("1,001 deleted", delete(1_001), 400, "InvalidRequest")
    expect("100,000 deleted", delete(100_000), 400, "InvalidRequest")


def heads(tls):
    plain = lambda headers, version="1.1", target="/": head_of("GET", target, headers, version)
    host = ("host", PLACES[tls])
    expect("128 headers", ask(plain([host] + [(f"x-{n}", "v") for n in range(127)]), tls), 403, "AccessDenied")
    expect("129 headers", ask(plain([host] + [(f"x-{n}", "v") for n in range(128)]), tls), 431)
    expect("100,000 headers", ask(plain([host] + [(f"x-{n}", "v") for n in range(100_000)]), tls), 431)
    expect("a header of 60 KiB", ask(plain([host, ("x-a", "v" * 60_000)]), tls), 403, "AccessDenied")
    expect("a header of 70 KiB", ask(plain([host, ("x-a", "v" * 70_000)]), tls), 431)
    expect("a header of 10 MiB", ask(plain([host, ("x-a", "v" * 10 * MIB)]), tls), 431)
    expect("a URI of 9,000 bytes", ask(plain([host], target="/hostile?" + "a" * 9_000), tls), 400, "InvalidArgument")
    answer = ask(plain([host], target="/" + "a" * 70_000), tls)
    assert answer.status in (414, 431), answer
    for what, data in [
        ("no HTTP", b"\x00\x01\x02\x03\r\n\r\n"),
        ("no version", b"GET /\r\n\r\n"),
        ("another version", b"GET / HTTP/9.9\r\n\r\n"),
        ("a method with blanks", b"GE T / HTTP/1.1\r\n\r\n"),
        ("a zero in a name", b"GET / HTTP/1.1\r\nho\x00st: a\r\n\r\n"),
        ("a blank before the colon", b"GET / HTTP/1.1\r\nhost : a\r\n\r\n"),
        ("a folded header", b"GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n"),
        ("a bare line feed in a value", b"GET / HTTP/1.1\r\nhost: a\nx\r\n\r\n"),
    ]:
        expect(what, ask(data, tls), 400)
    # An old protocol's newer one, which is not spoken: the connection ends.
    expect("HTTP/2 without leave", ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", tls), 0)
    metadata = {f"x-amz-meta-{n}": "v" * 200 for n in range(20)}
    expect("4 KiB of user metadata", ask(signed("PUT", BUCKET + "/m", headers=metadata, body=b"x"), tls), 400, "MetadataTooLarge")
    tags = {"x-amz-tagging": "&".join(f"a{n}=b" for n in range(11))}
    expect("11 tags", ask(signed("PUT", BUCKET + "/m", headers=tags, body=b"x"), tls), 400, "InvalidTag")
    reserved = {"x-amz-meta-reduit-s3": '{"v":1}'}
    expect("the reserved name", ask(signed("PUT", BUCKET + "/m", headers=reserved, body=b"x"), tls), 400)


def paths(tls):
    put = lambda path, **more: ask(signed("PUT", path, body=b"path", **more), tls)
    got = lambda path: ask(signed("GET", path), tls)
    # Keys are bytes with a name for them: nothing is walked, folded or shortened.
    for name in ("..", "../..", "a/../b", "./a", "a//b", "/a", "a/", "a/./b", "....//", "%252e%252e", "%20", "%E2%80%AE", "~"):
        path = BUCKET + "/k/" + name
        expect(f"a key with {name}", put(path), 200)
        answer = got(path)
        assert (answer.status, answer.body) == (200, b"path"), f"{name}: {answer}"
    expect("another spelling of a key", got(BUCKET + "/k/a/b"), 404, "NoSuchKey")
    expect("dots do not lead out", got(BUCKET + "/../hostile/there"), 404, "NoSuchKey")
    # Sent encoded, signed as S3 canonicalises it.
    expect("%2e%2e is ..", ask(signed("GET", BUCKET + "/k/..").replace(b"/k/..", b"/k/%2e%2e"), tls), 200)
    zero = BUCKET + "/k/a%00b"
    if put(zero).status == 200:
        answer = got(zero)
        assert (answer.status, answer.body) == (200, b"path"), f"NUL: {answer}"
        expect("a key up to NUL", got(BUCKET + "/k/a"), 404, "NoSuchKey")
    for what, raw in (("overlong", "%c0%af"), ("a surrogate", "%ed%a0%80"), ("half a letter", "%e2%82"), ("beyond", "%f5%80%80%80")):
        expect(what, put(BUCKET + "/k/" + raw), 400, "InvalidURI")
    expect("half an escape", put(BUCKET + "/k/%zz"), 403, "SignatureDoesNotMatch")
    expect("1,024 bytes", put(BUCKET + "/" + "k" * 1024), 200)
    expect("1,025 bytes", put(BUCKET + "/" + "k" * 1025), 400, "KeyTooLongError")
    expect("1,024 bytes of 3 each", put(BUCKET + "/" + "%E2%82%AC" * 341 + "k"), 200)
    expect("1,026 bytes of 3 each", put(BUCKET + "/" + "%E2%82%AC" * 342), 400, "KeyTooLongError")
    for name in ("ab", "A" * 10, "a" * 64, "..", "a..b", "127.0.0.1", "xn--a", "a_b", "-a", "a%2fb%2f..", "%00%00%00"):
        answer = ask(signed("GET", "/" + name), tls)
        assert answer.status in (400, 404), f"a bucket {name}: {answer}"
        if answer.status == 404:
            expect(f"a bucket {name}", answer, 404, "NoSuchBucket")
    expect("a target that is no path", ask(head_of("GET", "*", [("host", PLACES[tls])]), tls), 400)
    away = signed("GET", OBJECT).replace(b"GET /", b"GET http://elsewhere.example/")
    expect("a whole URL is that path", ask(away, tls), 200)


def signatures(tls):
    put = lambda **more: ask(signed("PUT", BUCKET + "/s", body=b"signed", **more), tls)
    expect("unsigned", ask(head_of("GET", OBJECT, [("host", PLACES[tls])]), tls), 403, "AccessDenied")
    expect("unsigned put", ask(head_of("PUT", OBJECT, [("host", "a"), ("content-length", "5")]) + b"hello", tls), 403, "AccessDenied")
    expect("another secret", put(signer=Signer(secret="another")), 403, "SignatureDoesNotMatch")
    expect("another key", put(signer=Signer(key="RDTAAAAAAAAAAAAAAAA7")), 403, "InvalidAccessKeyId")
    expect("no key", put(signer=Signer(key="AKIAIOSFODNN7EXAMPLE")), 403, "InvalidAccessKeyId")
    expect("another region", put(signer=Signer(region="us-east-1")), 400, "AuthorizationHeaderMalformed")
    expect("another service", put(signer=Signer(service="ec2")), 501, "NotImplemented")
    expect("a service that is no storage", put(signer=Signer(service="sts")), 400, "AuthorizationHeaderMalformed")
    for minutes in (-20, 20, -60 * 24 * 400, 60 * 24 * 400):
        expect(f"a clock off by {minutes} minutes", put(signer=Signer(at=now(minutes))), 403, "RequestTimeTooSkewed")
    for minutes in (-10, 10):
        expect(f"a clock off by {minutes} minutes", put(signer=Signer(at=now(minutes))), 200)
    change = lambda old, new: put(auth=lambda text: re.sub(old, new, text))
    expect("half a signature", change("Signature=.{32}", "Signature="), 403, "SignatureDoesNotMatch")
    expect("upper case", change("Signature=.*", lambda found: found[0].upper().replace("SIGNATURE", "Signature")), 403, "SignatureDoesNotMatch")
    expect("no signature", change(", Signature=.*", ""), 400)
    expect("another algorithm", change("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), 400)
    expect("nothing of it", change(".*", ""), 400)
    expect("another scope", change("aws4_request", "aws5_request"), 400)
    expect("a megabyte of it", change("Signature=", "Signature=" + "a" * 50_000), 403)
    expect("the host is not signed", ask(unhosted(), tls), 403, "AccessDenied")
    twice = signed("PUT", BUCKET + "/s", body=b"signed").replace(b"authorization: ", b"authorization: AWS4-HMAC-SHA256 x\r\nauthorization: ")
    answer = ask(twice, tls)
    assert answer.status in (400, 403), f"two authorizations: {answer}"
    expect("another body", ask(signed("PUT", BUCKET + "/s", body=b"signed", payload=sha256(b"other")), tls), 400, "XAmzContentSHA256Mismatch")
    expect("another XML body", ask(signed("POST", BUCKET, [("delete", None)], body=b"<Delete><Object><Key>there</Key></Object></Delete>", payload=sha256(b"other")), tls), 400, "XAmzContentSHA256Mismatch")
    expect("no hash", ask(signed("PUT", BUCKET + "/s", body=b"x", payload="0" * 63), tls), 403, "SignatureDoesNotMatch")
    # What is signed is not added to: a header that tells S3 what to do has to be among what was signed.
    for name, value in (("x-amz-copy-source", OBJECT), ("x-amz-tagging", "a=b"), ("x-amz-meta-a", "b"), ("x-amz-acl", "private")):
        expect(f"{name} added", put(unsigned=[(name, value)]), 403, "AccessDenied")
    presign(tls)


def unhosted():
    """A request whose host is not among what is signed."""
    signer = Signer()
    headers = {"x-amz-content-sha256": sha256(b"signed"), "x-amz-date": signer.time}
    signature, names = signer.request("PUT", BUCKET + "/s", [], headers, headers["x-amz-content-sha256"])
    authorization = f"AWS4-HMAC-SHA256 Credential={ID}/{signer.scope}, SignedHeaders={names}, Signature={signature}"
    sent = [("host", PLACES[False]), *headers.items(), ("authorization", authorization), ("content-length", "6")]
    return head_of("PUT", BUCKET + "/s", sent) + b"signed"


def presign(tls):
    host = ("host", PLACES[False])
    got = lambda target, more=(): ask(head_of("GET", target, [host, *more]), tls)
    expect("a link", got(presigned("GET", OBJECT)), 200)
    expect("a link of another secret", got(presigned("GET", OBJECT, signer=Signer(secret="x"))), 403, "SignatureDoesNotMatch")
    expect("a link that is over", got(presigned("GET", OBJECT, signer=Signer(at=now(-20)), expires=60)), 403, "AccessDenied")
    expect("a link of tomorrow", got(presigned("GET", OBJECT, signer=Signer(at=now(20)))), 403, "RequestTimeTooSkewed")
    expect("a link for two weeks", got(presigned("GET", OBJECT, expires=14 * 24 * 3600)), 400)
    expect("a link for minus one", got(presigned("GET", OBJECT, expires=-1)), 400)
    link = presigned("GET", OBJECT)
    expect("a link, twice a parameter", got(link + "&X-Amz-Expires=600"), 400)
    expect("a link, longer", got(link.replace("X-Amz-Expires=600", "X-Amz-Expires=601")), 403, "SignatureDoesNotMatch")
    expect("a link, more asked for", got(link + "&response-content-type=text%2Fhtml"), 403, "SignatureDoesNotMatch")
    # Who holds a link to put one object copies no other into it.
    target = presigned("PUT", BUCKET + "/drop")
    steal = [host, ("x-amz-copy-source", OBJECT), ("content-length", "0")]
    expect("a link to put that copies", ask(head_of("PUT", target, steal), tls), 403, "AccessDenied")
    keeps = presigned("DELETE", OBJECT)
    passing = [host, ("x-amz-bypass-governance-retention", "true")]
    expect("a link to delete that passes over", ask(head_of("DELETE", keeps, passing), tls), 403, "AccessDenied")
    with_hash = [host, ("x-amz-content-sha256", sha256(b"drop")), ("content-length", "4")]
    expect("a link to put, hashed", ask(head_of("PUT", target, with_hash) + b"drop", tls), 200)


def chunks(tls):
    path, data = BUCKET + "/chunked", [b"a" * 8192, b"b" * 8192, b"c" * 100]
    sent = lambda *args, **more: ask(chunked(path, *args, **more), tls)
    expect("chunks", sent(data), 200)
    answer = ask(signed("GET", path), tls)
    assert answer.body == b"".join(data), f"chunks: {answer}"

    def spoilt(at, change):
        return lambda number, line, piece: change(line, piece) if number == at else (line, piece)

    other = spoilt(1, lambda line, piece: (line, b"x" + piece[1:]))
    expect("a forged chunk", sent(data, other), 403, "SignatureDoesNotMatch")
    other = spoilt(1, lambda line, piece: (re.sub("=.*", "=" + "0" * 64, line), piece))
    expect("a forged signature", sent(data, other), 403, "SignatureDoesNotMatch")
    other = spoilt(3, lambda line, piece: (re.sub("=.*", "=" + "0" * 64, line), piece))
    expect("a forged end", sent(data, other), 403, "SignatureDoesNotMatch")
    for what, text in (
        ("no signature", lambda line: line.split(";")[0]),
        ("no size", lambda line: ";" + line.split(";")[1]),
        ("a size that is none", lambda line: "zz;" + line.split(";")[1]),
        ("a negative size", lambda line: "-1;" + line.split(";")[1]),
        ("a size beyond", lambda line: "f" * 17 + ";" + line.split(";")[1]),
        ("a huge size", lambda line: "ffffffff;" + line.split(";")[1]),
        ("a long line", lambda line: line + "a" * 5_000),
        ("half a signature", lambda line: line[:-10]),
    ):
        other = spoilt(1, lambda line, piece: (text(line), piece))
        answer = sent(data, other)
        assert answer.status == 400 and answer.code in ("IncompleteBody", "InvalidRequest", "InvalidChunkSizeError"), f"{what}: {answer}"
    expect("no last chunk", sent(data, end=False), 400, "IncompleteBody")
    expect("fewer bytes than stated", sent(data, stated=20_000), 400, "IncompleteBody")
    expect("more bytes than stated", sent(data, stated=10_000), 400, "IncompleteBody")
    expect("a length that is none", sent(data, stated="x"), 400)
    crc = base64.b64encode(zlib.crc32(b"".join(data)).to_bytes(4, "big")).decode()

    def trailer(value, forged=False):
        def made(signer, before):
            text = f"x-amz-checksum-crc32:{value}\n".encode()
            signature = "0" * 64 if forged else signer.trailer(before, text)
            return text[:-1] + f"\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()

        return made

    expect("a trailer", sent(data, trailer=trailer(crc)), 200)
    expect("a trailer that is wrong", sent(data, trailer=trailer("AAAAAA==")), 400, "BadDigest")
    expect("a trailer that is none", sent(data, trailer=trailer("?")), 400, "InvalidDigest")
    expect("a forged trailer", sent(data, trailer=trailer(crc, True)), 403, "SignatureDoesNotMatch")
    expect("no trailer signature", sent(data, trailer=f"x-amz-checksum-crc32:{crc}\r\n\r\n".encode()), 400, "IncompleteBody")
    expect("a long trailer", sent(data, trailer=b"x-a:" + b"b" * 20_000 + b"\r\n\r\n"), 400, "IncompleteBody")
    whole = f"x-amz-checksum-crc32:{crc}\r\n\r\n".encode()
    expect("not signed", sent(data, trailer=whole, unsigned=True), 200)
    # One chunk of many megabytes is a chunk; a signed one is held until its signature is checked, so it is bounded.
    large = [os.urandom(MIB) * 24]
    crc = base64.b64encode(zlib.crc32(large[0]).to_bytes(4, "big")).decode()
    whole = f"x-amz-checksum-crc32:{crc}\r\n\r\n".encode()
    before = rss_mib()
    expect("24 MiB in one chunk, not signed", sent(large, trailer=whole, unsigned=True), 200)
    expect("24 MiB in one signed chunk", sent(large), 400, "InvalidRequest")
    print(f"  one chunk of 24 MiB: {before} MiB before, {rss_mib()} after")


def lengths(tls):
    put = lambda **more: signed("PUT", BUCKET + "/l", body=b"length", payload=UNSIGNED, **more)
    with Wire(tls) as wire:
        wire.send(put(length=7))
        wire.socket.settimeout(PATIENCE + 5)
        answer = wire.answer()
        assert (answer.status, answer.code) == (400, "RequestTimeout"), f"a byte too few: {answer}"
    with Wire(tls) as wire:
        wire.send(put(length=5))
        expect("a byte too many", wire.answer(), 200)
        # What is left is the beginning of no request.
        expect("a byte too many, then", wire.answer(), 0)
    expect("no length", ask(put(length=None), tls), 411, "MissingContentLength")
    for length in ("-1", "+6", "6,6", "0x6", "6 6", "99999999999999999999", "six"):
        expect(f"length {length}", ask(put(length=length), tls), 400)
    expect("more than an object may have", ask(put(length=(5 << 30) + 1), tls), 400, "EntityTooLarge")
    expect("most of what a length can say", ask(put(length=(1 << 63) - 1), tls), 400, "EntityTooLarge")
    md5 = {"content-md5": base64.b64encode(bytes(16)).decode()}
    expect("another MD5", ask(signed("PUT", BUCKET + "/l", headers=md5, body=b"x"), tls), 400, "BadDigest")
    md5 = {"content-md5": "?"}
    expect("no MD5", ask(signed("PUT", BUCKET + "/l", headers=md5, body=b"x"), tls), 400, "InvalidDigest")
    crc = {"x-amz-checksum-crc32": "AAAAAA=="}
    expect("another checksum", ask(signed("PUT", BUCKET + "/l", headers=crc, body=b"x"), tls), 400, "BadDigest")


def queries(tls):
    got = lambda path, query: ask(signed("GET", path, query), tls)
    expect("a version twice", got(OBJECT, [("versionId", "null"), ("versionId", "null")]), 400, "InvalidArgument")
    expect("a list type twice", got(BUCKET, [("list-type", "2"), ("list-type", "2"), ("prefix", "a")]), 400, "InvalidArgument")
    expect("a prefix twice", got(BUCKET, [("list-type", "2"), ("prefix", "a"), ("prefix", "b")]), 400, "InvalidArgument")
    expect("a token that is none", got(BUCKET, [("list-type", "2"), ("continuation-token", "!!!")]), 400, "InvalidArgument")
    expect("a token of 4,000 bytes", got(BUCKET, [("list-type", "2"), ("continuation-token", "A" * 4_000)]), 400, "InvalidArgument")
    expect("minus one key", got(BUCKET, [("list-type", "2"), ("max-keys", "-1")]), 400, "InvalidArgument")
    expect("keys without end", got(BUCKET, [("list-type", "2"), ("max-keys", "99999999999999999999")]), 400, "InvalidArgument")
    expect("a long prefix", got(BUCKET, [("list-type", "2"), ("prefix", "p" * 1025)]), 400)
    expect("a long delimiter", got(BUCKET, [("list-type", "2"), ("delimiter", "d" * 1025)]), 400)
    expect("another encoding", got(BUCKET, [("list-type", "2"), ("encoding-type", "base64")]), 400, "InvalidArgument")
    expect("a version that is none", got(OBJECT, [("versionId", "../../etc/passwd")]), 400, "InvalidArgument")
    expect("a marker that is none", got(BUCKET, [("versions", None), ("key-marker", "a"), ("version-id-marker", "i" + "f" * 17)]), 400, "InvalidArgument")
    expect("a part that is none", got(OBJECT, [("partNumber", "0")]), 416)
    expect("1,000 parameters", got(BUCKET, [(f"a{n}", "b") for n in range(1_000)]), 200)
    expect("no operation", ask(signed("PATCH", OBJECT), tls), 501, "NotImplemented")
    expect("a trace", ask(signed("TRACE", OBJECT), tls), 501, "NotImplemented")
    for bad in ("bytes", "bytes=", "bytes=a-b", "bytes=5-2", "bytes=0-1,3-4", "bytes=--1", "items=0-1", "bytes=0-99999999999999999999", "bytes= 0-1", "\u00e9"):
        answer = ask(signed("GET", OBJECT, headers={"range": bad}), tls)
        assert answer.status in (400, 403, 416), f"range {bad}: {answer}"
    for outside in ("bytes=100-", "bytes=100-200", "bytes=-0", "bytes=9223372036854775807-"):
        expect(f"range {outside}", ask(signed("GET", OBJECT, headers={"range": outside}), tls), 416, "InvalidRange")
    for inside, length in (("bytes=99-", 1), ("bytes=0-9223372036854775807", 100), ("bytes=-1000", 100)):
        answer = ask(signed("GET", OBJECT, headers={"range": inside}), tls)
        assert (answer.status, len(answer.body)) == (206, length), f"range {inside}: {answer}"


def shapes(tls):
    host = ("host", PLACES[False])
    old = ask(signed("GET", OBJECT, version="1.0"), tls)
    assert (old.status, old.body) == (200, BODY), f"HTTP/1.0: {old}"
    expect("HTTP/1.0 without a host", ask(b"GET / HTTP/1.0\r\n\r\n", tls), 403, "AccessDenied")
    expect("HTTP/1.0, chunked", ask(b"PUT /a/b HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", tls), 400)
    with Wire(tls) as wire:
        wire.send(b"".join(signed("GET", OBJECT) for _ in range(50)))
        for _ in range(50):
            answer = wire.answer()
            assert (answer.status, answer.body) == (200, BODY), f"pipelined: {answer}"
    with Wire(tls) as wire:
        wire.send(signed("PUT", BUCKET + "/p", body=b"one") + signed("GET", BUCKET + "/p"))
        expect("pipelined put", wire.answer(), 200)
        assert wire.answer().body == b"one", "a read that follows a put sees it"
    # Two lengths: whoever stands in front may believe the other one, so nothing that follows is taken for a request.
    inner = signed("GET", OBJECT)
    for what, framing in (
        ("CL, then TE", [("content-length", "4"), ("transfer-encoding", "chunked")]),
        ("TE, then CL", [("transfer-encoding", "chunked"), ("content-length", "4")]),
        ("TE twice", [("transfer-encoding", "chunked"), ("transfer-encoding", "identity")]),
        ("TE that is none", [("transfer-encoding", "xchunked")]),
        ("TE hidden", [("transfer-encoding", "chunked, identity")]),
        ("CL twice", [("content-length", "4"), ("content-length", "5")]),
    ):
        outer = signed("PUT", BUCKET + "/smuggled", payload=UNSIGNED, unsigned=framing, length=None)
        with Wire(tls) as wire:
            wire.send(outer + b"0\r\n\r\n" + inner)
            first = wire.answer()
            if not 400 <= first.status < 500:
                expect(what, first, 400)
            second = wire.answer()
            assert second.status == 0, f"{what}: {second} to what was smuggled"
    bad = b"zz\r\nabc\r\n0\r\n\r\n"
    coded = {"x-amz-decoded-content-length": "3", "x-amz-trailer": "x-amz-checksum-crc32"}
    coding = [("transfer-encoding", "chunked")]
    outer = signed("PUT", BUCKET + "/te", payload=UNSIGNED, headers=coded, unsigned=coding, length=None)
    expect("chunks of an unsigned body", ask(outer + b"3\r\nabc\r\n0\r\n\r\n", tls), 411, "MissingContentLength")
    outer = signed("PUT", BUCKET + "/te", payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER", headers=coded, unsigned=coding, length=None)
    inside = b"3\r\nabc\r\n0\r\n\r\n"
    expect("chunks in chunks", ask(outer + b"%x\r\n%s\r\n0\r\n\r\n" % (len(inside), inside), tls), 200)
    expect("chunks that are none", ask(outer + bad, tls), 400, "IncompleteBody")
    expect("a chunk beyond", ask(outer + b"ffffffffffffffffff\r\nabc", tls), 400, "IncompleteBody")
    expect("an expectation", ask(head_of("PUT", OBJECT, [host, ("expect", "100-continue"), ("content-length", "5")]), tls), 403, "AccessDenied")


def slow(tls):
    """Clients that hold still, or nearly: each is let go in time, whatever it holds meanwhile."""
    bound, outcomes = PATIENCE * 3 + 5, {}
    body = signed("PUT", BUCKET + "/slow", payload=UNSIGNED, length=5 * MIB)
    multi = signed("POST", BUCKET, [("delete", None)], payload=UNSIGNED, length=1_000)

    def drip(data, then):
        def run(wire):
            wire.send(data)
            while True:
                wire.send(then)
                time.sleep(0.5)

        return run

    cases = {
        "nothing at all": lambda wire: None,
        "half a head": lambda wire: wire.send(b"GET / HTTP/1.1\r\nhost: a\r\n"),
        "a head byte by byte": drip(b"GET / HTTP/1.1\r\nx: ", b"a"),
        "a body byte by byte": drip(body, b"a"),
        "a body that stops": lambda wire: wire.send(body + b"abc"),
        "an XML body byte by byte": drip(multi, b" "),
        "an XML body that stops": lambda wire: wire.send(multi + b"<Delete>"),
        "an answer read byte by byte": "read slowly",
        "an answer that is not read": "not read",
    }

    def hold(what, act):
        began = time.monotonic()
        try:
            with Wire(tls, timeout=bound) as wire:
                if act in ("read slowly", "not read"):
                    wire.send(signed("GET", BUCKET + "/large"))
                    # For twice as long as it is waited for; what is read then is what the kernel had taken.
                    while time.monotonic() - began < PATIENCE * 2:
                        if act == "read slowly":
                            wire.socket.recv(1)
                        time.sleep(0.5)
                    total = 0
                    while piece := wire.socket.recv(1 << 20):
                        total += len(piece)
                    outcomes[what] = (time.monotonic() - began, Answer(), total)
                    return
                try:
                    act(wire)
                except OSError:
                    pass
                wire.socket.settimeout(bound)
                answer = wire.answer()
                outcomes[what] = (time.monotonic() - began, answer, 0)
        except OSError as error:
            outcomes[what] = (time.monotonic() - began, Answer(body=repr(error).encode()), 0)

    threads = [threading.Thread(target=hold, args=case, daemon=True) for case in cases.items()]
    [thread.start() for thread in threads]
    [thread.join(bound * 4) for thread in threads]
    for what in cases:
        took, answer, total = outcomes.get(what, (9e9, Answer(), 0))
        print(f"  {what}: {took:.1f} s, {answer}, {total}")
        if took > bound:
            wrong.append(f"{what}: held for {took:.1f} s")
        if "that stops" in what:
            expect(what, answer, 400, "RequestTimeout")
        elif "body" in what and answer.status not in (0, 400):
            # Who still sends when the gateway hangs up may not see why.
            wrong.append(f"{what}: {answer}")
        if "answer" in what and total >= 32 * MIB:
            wrong.append(f"{what}: was read to its end")


def handshakes():
    """At the port of HTTPS, what is no TLS, or older, or no end of one."""
    host, port = PLACES[True].split(":")

    def at_port(data, seconds):
        with socket.create_connection((host, int(port)), 30) as raw:
            raw.sendall(data)
            began = time.monotonic()
            raw.settimeout(seconds)
            try:
                while raw.recv(4096):
                    pass
            except ConnectionError:
                pass
            except TimeoutError:
                wrong.append(f"{data[:8]}: held for {seconds} s")
            return time.monotonic() - began

    at_port(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 5)
    at_port(bytes(5_000), 5)
    at_port(b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000, 5)
    # A handshake has ten seconds.
    at_port(b"\x16\x03\x01\x02\x00\x01", 12)
    older = ssl.create_default_context(cafile=os.environ["S3_CA"])
    older.check_hostname, older.maximum_version = False, ssl.TLSVersion.TLSv1_2
    try:
        with socket.create_connection((host, int(port)), 10) as raw:
            older.wrap_socket(raw, server_hostname=host)
            wrong.append("TLS 1.2 was taken")
    except (ssl.SSLError, ConnectionError):
        pass


def documents():
    """Bodies that are held whole are held for few at a time; the others come again."""
    crowd = [Wire(timeout=20) for _ in range(150)]
    large = b"<Delete>" + b" " * (4 * MIB - 100)
    whole = signed("POST", BUCKET, [("delete", None)], body=large + b"</Delete>")
    # Everything but the last bytes: what they fill stays filled.
    sending = [threading.Thread(target=swallowed, args=(wire, whole[:-5]), daemon=True) for wire in crowd]
    [one.start() for one in sending]
    [one.join(20) for one in sending]
    slowed = ask(whole)
    print(f"  {len(crowd)} documents of 4 MiB at once: {rss_mib()} MiB")
    if slowed.status not in (503, 400):
        wrong.append(f"a document too many: {slowed}")
    [wire.socket.close() for wire in crowd]


def swallowed(wire, data):
    try:
        wire.send(data)
    except OSError:
        pass


def crowd():
    """Uploads that crawl take no room from who comes after them for longer than the gateway waits."""
    crawling = [Wire() for _ in range(60)]
    for wire in crawling:
        wire.send(signed("PUT", BUCKET + "/crowd", payload=UNSIGNED, length=1 << 30) + b"x")
    end = time.monotonic() + PATIENCE * 3 + 5
    last, large = None, b"x" * (24 * MIB)
    while time.monotonic() < end:
        for wire in crawling:
            try:
                wire.send(b"x")
            except OSError:
                pass
        last = ask(signed("PUT", BUCKET + "/after", body=large))
        if last.status == 200 and time.monotonic() > end - 5:
            break
        time.sleep(0.5)
    expect("a put after a crowd of crawling ones", last, 200)
    [wire.socket.close() for wire in crawling]


def main():
    made = ask(signed("PUT", BUCKET))
    assert made.status in (200, 409), made
    assert ask(signed("PUT", OBJECT, body=BODY)).status == 200
    assert ask(signed("PUT", BUCKET + "/large", body=os.urandom(32 * MIB))).status == 200
    watch = Watch()
    watch.start()
    for tls in (False, True):
        for story in (xml, parts, heads, paths, signatures, chunks, lengths, queries, shapes, slow):
            began = time.monotonic()
            story(tls)
            print(f"{story.__name__} over {'HTTPS' if tls else 'HTTP'}: {time.monotonic() - began:.1f} s, {rss_mib()} MiB", flush=True)
    handshakes()
    documents()
    crowd()
    watch.over.set()
    watch.join(30)
    print(f"a good client: served {watch.served} times, {watch.longest:.2f} s at most; gateway {watch.most} MiB at most, {rss_mib()} at the end")
    wrong.extend(f"a good client: {failure}" for failure in watch.failed)
    if watch.served < 100 or watch.longest > 5:
        wrong.append(f"a good client was served {watch.served} times, {watch.longest:.2f} s at most")
    if watch.most > RSS_MIB_MAX:
        wrong.append(f"the gateway took {watch.most} MiB")
    assert not wrong, "\n".join(wrong)
    print("all passed")


main()
