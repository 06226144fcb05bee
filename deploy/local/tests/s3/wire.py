"""Requests byte by byte, on raw sockets: signed as S3 wants it, or in whatever way a test wants it wrong."""

import datetime
import hashlib
import hmac
import os
import socket
import ssl
import urllib.parse

REGION = os.environ["S3_REGION"]
ID, SECRET = os.environ["S3_ACCESS_KEY"], os.environ["S3_SECRET"]
PLACES = {tls: urllib.parse.urlsplit(os.environ[name]).netloc for tls, name in ((False, "S3_HTTP"), (True, "S3_HTTPS"))}
CONTEXT = ssl.create_default_context(cafile=os.environ["S3_CA"])
CONTEXT.check_hostname = False
UNSIGNED = "UNSIGNED-PAYLOAD"


class Answer:
    """What came back: status 0 where the connection ended without an answer."""

    def __init__(self, status=0, headers=None, body=b""):
        self.status, self.headers, self.body = status, headers or {}, body

    @property
    def code(self):
        text = self.body.decode("utf-8", "replace")
        return text.split("<Code>")[1].split("</Code>")[0] if "<Code>" in text else ""

    def __str__(self):
        return f"{self.status} {self.code or self.body[:60]}"


class Wire:
    """One connection."""

    def __init__(self, tls=False, timeout=30):
        host, port = PLACES[tls].split(":")
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = CONTEXT.wrap_socket(self.socket, server_hostname=host)
        self.held = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def _more(self):
        piece = self.socket.recv(1 << 16)
        self.held += piece
        return bool(piece)

    def answer(self, method="GET"):
        """The next answer; an empty one where the gateway hangs up."""
        try:
            return self._answer(method)
        except (ConnectionError, ssl.SSLError):
            return Answer()

    def _answer(self, method):
        while b"\r\n\r\n" not in self.held:
            if not self._more():
                return Answer()
        head, _, self.held = self.held.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        answer = Answer(int(lines[0].split()[1]), headers)
        if answer.status == 100:
            return self._answer(method)
        if method == "HEAD" or answer.status in (204, 304):
            return answer
        if headers.get("transfer-encoding") == "chunked":
            answer.body = self._chunks()
            return answer
        length = int(headers["content-length"]) if "content-length" in headers else None
        while length is None or len(self.held) < length:
            if not self._more():
                break
        length = len(self.held) if length is None else length
        answer.body, self.held = self.held[:length], self.held[length:]
        return answer

    def _chunks(self):
        whole = b""
        while True:
            while b"\r\n" not in self.held:
                if not self._more():
                    return whole
            size, _, self.held = self.held.partition(b"\r\n")
            size = int(size, 16)
            while len(self.held) < size + 2:
                if not self._more():
                    return whole
            whole, self.held = whole + self.held[:size], self.held[size + 2 :]
            if size == 0:
                return whole

    def ends_within(self, seconds):
        """Whether the gateway hangs up in time."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except (ConnectionError, ssl.SSLError):
            pass
        return True


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def now(minutes=0):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)


def _mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Signer:
    """AWS4-HMAC-SHA256 at one time, by one access key."""

    def __init__(self, at=None, key=ID, secret=SECRET, region=REGION, service="s3"):
        at = at or now()
        self.time, self.date, self.key = at.strftime("%Y%m%dT%H%M%SZ"), at.strftime("%Y%m%d"), key
        self.scope = f"{self.date}/{region}/{service}/aws4_request"
        secret = b"AWS4" + secret.encode()
        for part in (self.date, region, service, "aws4_request"):
            secret = _mac(secret, part)
        self.secret = secret

    def sign(self, *lines):
        return hmac.new(self.secret, "\n".join(lines).encode(), hashlib.sha256).hexdigest()

    def request(self, method, path, query, headers, payload):
        """The signature over a request."""
        names = ";".join(sorted(headers))
        pairs = sorted((quote(name), quote(value)) for name, value in query)
        canonical = [method, path, "&".join(f"{name}={value}" for name, value in pairs)]
        canonical += [f"{name}:{headers[name].strip()}" for name in sorted(headers)] + ["", names, payload]
        return self.sign("AWS4-HMAC-SHA256", self.time, self.scope, sha256("\n".join(canonical).encode())), names

    def chunk(self, before, data):
        return self.sign("AWS4-HMAC-SHA256-PAYLOAD", self.time, self.scope, before, sha256(b""), sha256(data))

    def trailer(self, before, text):
        return self.sign("AWS4-HMAC-SHA256-TRAILER", self.time, self.scope, before, sha256(text))


def quote(text):
    return urllib.parse.quote(text, safe="-_.~")


def target_of(path, query):
    # A value of None stands for a name alone, which is signed as an empty value.
    text = "&".join(quote(name) + ("" if value is None else "=" + quote(value)) for name, value in query)
    return path + ("?" + text if text else "")


def head_of(method, target, headers, version="1.1"):
    lines = [f"{method} {target} HTTP/{version}"] + [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def signed(method, path, query=(), headers=None, body=b"", payload=None, signer=None, unsigned=(), length=True, host=None, version="1.1", auth=None):
    """A whole request, signed in its header; `unsigned` headers are sent and not signed."""
    signer, query = signer or Signer(), list(query)
    payload = payload or sha256(body)
    all_headers = {"host": host or PLACES[False], "x-amz-content-sha256": payload, "x-amz-date": signer.time}
    all_headers.update(headers or {})
    signature, names = signer.request(method, path, [(n, v or "") for n, v in query], all_headers, payload)
    credential = f"{signer.key}/{signer.scope}"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    sent = list(all_headers.items()) + list(unsigned)
    sent.append(("authorization", auth(authorization) if auth else authorization))
    if length is True:
        sent.append(("content-length", str(len(body))))
    elif length is not None and length is not False:
        sent.append(("content-length", str(length)))
    return head_of(method, target_of(path, query), sent, version) + body


def presigned(method, path, query=(), signer=None, expires=600, headers=None):
    """The target of a presigned request."""
    signer = signer or Signer()
    headers = {"host": PLACES[False], **(headers or {})}
    query = list(query) + [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", f"{signer.key}/{signer.scope}"),
        ("X-Amz-Date", signer.time),
        ("X-Amz-Expires", str(expires)),
        ("X-Amz-SignedHeaders", ";".join(sorted(headers))),
    ]
    signature, _ = signer.request(method, path, query, headers, UNSIGNED)
    return target_of(path, query + [("X-Amz-Signature", signature)])


def chunked(path, chunks, change=None, trailer=None, stated=None, unsigned=False, end=True):
    """A put whose body comes in chunks of S3's own coding, each signed; `change` spoils what is sent of one."""
    kind = "STREAMING-UNSIGNED-PAYLOAD" if unsigned else "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    payload = kind + ("-TRAILER" if trailer is not None or unsigned else "")
    length = sum(map(len, chunks)) if stated is None else stated
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(length)}
    if trailer is not None or unsigned:
        headers["x-amz-trailer"] = "x-amz-checksum-crc32"
    signer = Signer()
    whole = signed("PUT", path, headers=headers, payload=payload, signer=signer, length=None)
    before = whole.decode().split("Signature=")[1].split("\r")[0]
    body = b""
    for at, data in enumerate(list(chunks) + ([b""] if end else [])):
        before = "" if unsigned else signer.chunk(before, data)
        line = f"{len(data):x}" + ("" if unsigned else f";chunk-signature={before}")
        line, data = change(at, line, data) if change else (line, data)
        last = at == len(chunks)
        body += line.encode() + b"\r\n" + data + (b"" if last and trailer is not None else b"\r\n")
    if trailer is not None:
        body += trailer(signer, before) if callable(trailer) else trailer
    return whole[:-2] + f"content-length: {len(body)}\r\n\r\n".encode() + body


def ask(data, tls=False, method="GET", timeout=30):
    """The answer to one request on a connection of its own."""
    with Wire(tls, timeout) as wire:
        try:
            wire.send(data)
        except (ConnectionError, ssl.SSLError):
            pass
        return wire.answer(method)
