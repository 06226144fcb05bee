"""Object lock for who may change keys: what the session has left locked."""

import time

from botocore.exceptions import ClientError

from gateway import refused, s3, status_of
from locks import BUCKET, later, put, retain


def version_of(key):
    return s3.list_object_versions(Bucket=BUCKET, Prefix=key)["Versions"][0]["VersionId"]


def granted():
    """Nodes learn within seconds what was granted."""
    until = time.monotonic() + 60
    while True:
        try:
            return s3.put_object_legal_hold(Bucket=BUCKET, Key="held", LegalHold={"Status": "OFF"})
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied", error
            assert time.monotonic() < until, "the grant is not known"
            time.sleep(0.5)


granted()
assert s3.get_object_legal_hold(Bucket=BUCKET, Key="held")["LegalHold"] == {"Status": "OFF"}
s3.delete_object(Bucket=BUCKET, Key="held", VersionId=version_of("held"))

governed = version_of("governed")
remove = lambda **more: s3.delete_object(Bucket=BUCKET, Key="governed", VersionId=governed, **more)
refused("AccessDenied", remove, 403)
refused("AccessDenied", lambda: retain("governed", governed, "GOVERNANCE", later()), 403)
retain("governed", governed, "GOVERNANCE", later(), BypassGovernanceRetention=True)
answer = remove(BypassGovernanceRetention=True)
assert status_of(answer) == 204 and answer["VersionId"] == governed, answer
refused("NoSuchVersion", lambda: s3.get_object(Bucket=BUCKET, Key="governed", VersionId=governed), 404)

ended = put("ended", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=later())
where = {"Bucket": BUCKET, "Key": "ended", "VersionId": ended}
s3.put_object_retention(Retention={}, BypassGovernanceRetention=True, **where)
refused("NoSuchObjectLockConfiguration", lambda: s3.get_object_retention(**where), 404)
s3.delete_object(**where)

many = [put("many", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=later()) for _ in range(3)]
delete = {"Objects": [{"Key": "many", "VersionId": version} for version in many]}
assert len(s3.delete_objects(Bucket=BUCKET, Delete=delete)["Errors"]) == 3
answer = s3.delete_objects(Bucket=BUCKET, Delete=delete, BypassGovernanceRetention=True)
assert len(answer["Deleted"]) == 3 and "Errors" not in answer, answer

# Compliance knows nobody who may.
complied = version_of("complied")
where = {"Bucket": BUCKET, "Key": "complied", "VersionId": complied, "BypassGovernanceRetention": True}
refused("AccessDenied", lambda: s3.delete_object(**where), 403)
refused("AccessDenied", lambda: s3.put_object_retention(Retention={}, **where), 403)
print("all passed")
