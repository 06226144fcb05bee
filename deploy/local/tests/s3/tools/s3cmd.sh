# s3cmd with its defaults: parts of 15 MiB. Where it trusts in MD5 it takes a switch.
. "$(dirname "$0")/session.sh"
configured() {
  host=${2#*://}
  cat >"$1" <<END
[default]
access_key = $S3_ACCESS_KEY
secret_key = $3
bucket_location = $S3_REGION
host_base = $host
host_bucket = $host
use_https = $4
signurl_use_https = $4
ca_certs_file = $S3_CA
END
}
configured secure.cfg "$S3_HTTPS" "$S3_SECRET" True
configured clear.cfg "$S3_HTTP" "$S3_SECRET" False
configured stranger.cfg "$S3_HTTPS" another True
s() {
  s3cmd -c secure.cfg --no-progress "$@"
}

s mb s3://s3cmd
refused BucketAlreadyOwnedByYou s mb s3://s3cmd
refused NoSuchBucket s ls s3://s3cmd-nobody
refused SignatureDoesNotMatch s3cmd -c stranger.cfg ls
says "s3://s3cmd" s ls
# Told of no region it begins with `US`, and goes by what the gateway answers.
says "s3://s3cmd" s3cmd -c clear.cfg --region=US ls

echo "put and get, by parts and whole"
random 50 big
s put big s3://s3cmd/big
s get s3://s3cmd/big back
cmp big back
s3cmd -c clear.cfg --no-progress put big s3://s3cmd/clear
s3cmd -c clear.cfg --no-progress get s3://s3cmd/clear back2
cmp big back2
echo small >small
s put --mime-type text/plain --add-header x-amz-meta-case:17 small s3://s3cmd/dir/small
s get s3://s3cmd/dir/small - | cmp - small
refused "Nothing to upload" s put nothing s3://s3cmd/nothing
refused "does not exist" s get s3://s3cmd/nothing
s info s3://s3cmd/dir/small >info
grep -q 'MIME type: *text/plain' info || broken "$(cat info)"
grep -q 'x-amz-meta-case: 17' info || broken "$(cat info)"
grep -q 'SSE: *aws:kms' info || broken "$(cat info)"
says "Location:  $S3_REGION" s info s3://s3cmd
s cp s3://s3cmd/dir/small s3://s3cmd/dir/copied
s get s3://s3cmd/dir/copied - | cmp - small
s mv s3://s3cmd/dir/copied s3://s3cmd/dir/moved
refused "does not exist" s get s3://s3cmd/dir/copied
equal 4 "$(s ls --recursive s3://s3cmd | wc -l)"

echo "signed links"
# s3cmd signs links by version 2 alone, which the gateway does not take.
equal 400 "$(curl -sS --cacert "$S3_CA" -o link -w '%{http_code}' "$(s signurl s3://s3cmd/dir/moved +60)")"
grep -q InvalidRequest link || broken "$(cat link)"

echo "sync, both ways"
s sync "$S3_TREE/" s3://s3cmd/tree/ >/dev/null
mkdir tree again
s sync s3://s3cmd/tree/ tree/ >/dev/null
same "$S3_TREE" tree
equal "" "$(s sync "$S3_TREE/" s3://s3cmd/tree/)"
equal "" "$(s sync s3://s3cmd/tree/ tree/)"
echo more >tree/added
rm -f "$(find tree -type f ! -name added | sort | head -n 1)"
s sync --delete-removed tree/ s3://s3cmd/tree/ >changed
equal 1 "$(grep -c '^upload' changed)"
equal 1 "$(grep -c '^delete' changed)"
s3cmd -c clear.cfg --no-progress sync s3://s3cmd/tree/ again/ >/dev/null
same tree again

echo "versions, tags, access"
refused AccessControlListNotSupported s put --acl-public small s3://s3cmd/public
refused NotImplemented s setpolicy small s3://s3cmd
s setversioning s3://s3cmd enable
echo second | s put - s3://s3cmd/dir/moved
equal second "$(s get s3://s3cmd/dir/moved -)"
s del s3://s3cmd/dir/moved
refused "does not exist" s get s3://s3cmd/dir/moved

echo "uploads that nobody ended"
equal 0 "$(s multipart s3://s3cmd | grep -c 's3://s3cmd/.' || true)"
refused BucketNotEmpty s rb s3://s3cmd
s mb s3://s3cmd-two
s put small s3://s3cmd-two/small
s del --recursive --force s3://s3cmd-two
s rb s3://s3cmd-two
refused NoSuchBucket s ls s3://s3cmd-two
echo "all passed"
