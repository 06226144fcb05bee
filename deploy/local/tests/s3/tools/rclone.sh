# rclone with its defaults: parts of 5 MiB above 200 MiB, four transfers at once.
. "$(dirname "$0")/session.sh"
export RCLONE_CONFIG="$PWD/rclone.conf" RCLONE_CA_CERT="$S3_CA"
remote() {
  rclone config create "$1" s3 provider=Other endpoint="$2" region="$S3_REGION" \
    access_key_id="$S3_ACCESS_KEY" secret_access_key="$3" >/dev/null
}
remote region "$S3_HTTPS" "$S3_SECRET"
remote clear "$S3_HTTP" "$S3_SECRET"
remote stranger "$S3_HTTPS" another

rclone mkdir region:rclone
says rclone/ rclone lsf --dirs-only region:
refused SignatureDoesNotMatch rclone --retries 1 lsf stranger:
refused "directory not found" rclone --retries 1 lsf region:rclone-nobody

echo "sync and check, both ways"
rclone sync "$S3_TREE" region:rclone/tree
says "0 differences found" rclone check "$S3_TREE" region:rclone/tree
says "0 differences found" rclone check --download "$S3_TREE" clear:rclone/tree
rclone sync region:rclone/tree tree
same "$S3_TREE" tree
says "There was nothing to transfer" rclone sync -v region:rclone/tree tree
echo more >tree/added
rm -f "$(find tree -type f ! -name added | sort | head -n 1)"
refused "2 differences found" rclone --retries 1 check tree region:rclone/tree
rclone sync tree region:rclone/tree
rclone sync clear:rclone/tree again
same tree again
rclone lsf -R --files-only region:rclone/tree | sort >listed
(cd tree && find . -type f | sed 's|^./||' | sort) | cmp - listed

echo "parts"
random 210 big
rclone copyto big region:rclone/big
rclone copyto region:rclone/big back
cmp big back
says "0 differences found" rclone check big region:rclone
rclone rcat clear:rclone/streamed <big
rclone cat region:rclone/streamed | cmp - big
rclone cat --offset 5242879 --count 2 region:rclone/big >range
tail -c +5242880 big | head -c 2 | cmp - range
rclone --s3-copy-cutoff 100M copyto region:rclone/big region:rclone/copied
rclone cat region:rclone/copied | cmp - big
rclone moveto region:rclone/copied region:rclone/moved
refused "object not found" rclone --retries 1 deletefile region:rclone/copied

echo "versions"
says Enabled rclone backend versioning region:rclone Enabled
printf first | rclone rcat region:rclone/kept
printf second | rclone rcat region:rclone/kept
equal 2 "$(rclone lsf --s3-versions region:rclone | grep -c '^kept')"
old=$(rclone lsf --s3-versions region:rclone | grep '^kept-v')
equal first "$(rclone cat --s3-versions "region:rclone/$old")"
rclone deletefile region:rclone/kept
refused "object not found" rclone --retries 1 deletefile region:rclone/kept
rclone backend cleanup-hidden region:rclone
equal "" "$(rclone lsf --s3-versions region:rclone | grep '^kept' || true)"

url=$(rclone link --expire 60s region:rclone/moved)
curl -fsS --cacert "$S3_CA" "$url" | cmp - big

refused BucketNotEmpty rclone --retries 1 rmdir region:rclone
rclone purge region:rclone
refused "directory not found" rclone --retries 1 lsf region:rclone
echo "all passed"
