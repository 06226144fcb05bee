"""Opens and seals with PyPI's `cryptography` (50 or later), an implementation independent of ours.

Reads a JSON list of jobs from standard input and writes the list of answers, in order. Bytes are hexadecimal.
`keys::tests::streams_go_both_ways_with_cryptography_of_pypi` runs it where REDUIT_PYTHON names an interpreter.
"""

import hashlib
import json
import sys

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def x_wing_private(seed):
    """The seed of X-Wing (draft-connolly-cfrg-xwing-kem) is 96 bytes of SHAKE256: ML-KEM's, then X25519's."""
    expanded = hashlib.shake_256(seed).digest(96)
    return hpke.MLKEM768X25519PrivateKey(
        mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        x25519.X25519PrivateKey.from_private_bytes(expanded[64:]),
    )


def x_wing_public(public):
    return hpke.MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(public[:1184]),
        x25519.X25519PublicKey.from_public_bytes(public[1184:]),
    )


def run(job):
    arg = {name: bytes.fromhex(value) for name, value in job.items() if name != "op"}
    match job["op"]:
        case "seal":
            sealer = Cobblestone256Encryptor(arg["key"], context=arg["context"])
            return sealer.update(arg["plain"]) + sealer.finalize()
        case "open":
            opener = Cobblestone256Decryptor(arg["key"], context=arg["context"])
            return opener.update(arg["sealed"]) + opener.finalize()
        case "hpke_seal":
            return SUITE.encrypt(arg["plain"], x_wing_public(arg["public"]), info=arg["info"])
        case "hpke_open":
            return SUITE.decrypt(arg["sealed"], x_wing_private(arg["seed"]), info=arg["info"])


json.dump([run(job).hex() for job in json.load(sys.stdin)], sys.stdout)
