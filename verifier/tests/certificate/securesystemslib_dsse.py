"""Verifies a DSSE envelope with PyPI's `securesystemslib`, an implementation independent of ours.

Reads one JSON job from standard input, an envelope and keys (key id, raw public key in hexadecimal), and says whether every
key has signed the envelope.
"""

import json
import sys

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

job = json.load(sys.stdin)
envelope = Envelope.from_dict(job["envelope"])
keys = [SSlibKey(name, "ed25519", "ed25519", {"public": raw}) for name, raw in job["keys"]]
try:
    accepted = envelope.verify(keys, len(keys))
    print("verified" if len(accepted) == len(keys) else "refused")
except VerificationError:
    print("refused")
