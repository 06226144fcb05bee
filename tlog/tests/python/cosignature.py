"""C2SP signed-note and tlog-cosignature by PyPI's `cryptography` (50 or later), written from the documents alone.

Reads a JSON object from standard input: `verify`, a list of {vkey, note}, and `sign`, a list of {name, type, seed,
time, text}. Writes `verified`, for each the time its signature states or null where it does not hold, and `signed`,
signature lines. `python::cosignatures_go_both_ways_with_cryptography_of_pypi` runs it where REDUIT_PYTHON names an
interpreter.
"""

import base64
import hashlib
import json
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

COSIGNATURE, ML_DSA_44 = 4, 6


def key_id(name, kind, public):
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def message(kind, name, time, text):
    if kind == COSIGNATURE:
        return f"cosignature/v1\ntime {time}\n{text}".encode()
    origin, size, root = text.split("\n")[:3]
    short = lambda word: bytes([len(word.encode())]) + word.encode()
    return (
        b"subtree/v1\n\0"
        + short(name)
        + struct.pack(">Q", time)
        + short(origin)
        + struct.pack(">QQ", 0, int(size))
        + base64.b64decode(root, validate=True)
    )


def verify(vkey, note):
    name, stated, key = vkey.split("+", 2)
    key = base64.b64decode(key, validate=True)
    kind, public = key[0], key[1:]
    if key_id(name, kind, public).hex() != stated:
        return None
    text, lines = note.rsplit("\n\n", 1)
    for line in lines.splitlines():
        dash, signer, signature = line.split(" ")
        signature = base64.b64decode(signature, validate=True)
        if (dash, signer, signature[:4].hex()) != ("—", name, stated):
            continue
        time = struct.unpack(">Q", signature[4:12])[0]
        loader = ed25519.Ed25519PublicKey if kind == COSIGNATURE else mldsa.MLDSA44PublicKey
        try:
            loader.from_public_bytes(public).verify(signature[12:], message(kind, name, time, text + "\n"))
        except InvalidSignature:
            return None
        return time
    return None


def sign(name, kind, seed, time, text):
    if kind == COSIGNATURE:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    else:
        key = mldsa.MLDSA44PrivateKey.from_seed_bytes(seed)
    public = key.public_key().public_bytes_raw()
    signature = key.sign(message(kind, name, time, text))
    raw = key_id(name, kind, public) + struct.pack(">Q", time) + signature
    return f"— {name} {base64.b64encode(raw).decode()}"


jobs = json.load(sys.stdin)
json.dump(
    {
        "verified": [verify(job["vkey"], job["note"]) for job in jobs["verify"]],
        "signed": [
            sign(job["name"], job["type"], bytes.fromhex(job["seed"]), job["time"], job["text"])
            for job in jobs["sign"]
        ],
    },
    sys.stdout,
)
