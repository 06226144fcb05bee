# awscli with its defaults: parts of 8 MiB, ten requests at once, CRC32 of each. Over HTTPS the sum comes in a trailer,
# over HTTP, where bodies are signed, in a header.
. "$(dirname "$0")/session.sh"
export AWS_ACCESS_KEY_ID="$S3_ACCESS_KEY" AWS_SECRET_ACCESS_KEY="$S3_SECRET" AWS_DEFAULT_REGION="$S3_REGION"
export AWS_ENDPOINT_URL="$S3_HTTPS" AWS_CA_BUNDLE="$S3_CA" AWS_PAGER=

aws s3 mb s3://aws
refused BucketAlreadyOwnedByYou aws s3 mb s3://aws
refused NoSuchBucket aws s3 ls s3://aws-nobody
refused NoSuchBucket aws s3 cp "$0" s3://aws-nobody/script
says aws aws s3 ls

echo "cp, by parts and whole"
random 200 big
aws s3 cp --no-progress big s3://aws/dir/big
aws s3 cp --no-progress s3://aws/dir/big back
cmp big back
# Bytes 1 to 3 of 4 of two parts that follow each other.
aws s3api get-object --bucket aws --key dir/big --range bytes=8388607-8388609 range >/dev/null
tail -c +8388608 big | head -c 3 | cmp - range
equal 25 "$(aws s3api head-object --bucket aws --key dir/big --part-number 1 --query PartsCount)"
random 20 middle
aws s3 cp --no-progress --endpoint-url "$S3_HTTP" middle s3://aws/dir/http
aws s3 cp --endpoint-url "$S3_HTTP" s3://aws/dir/http - | cmp - middle
# Of unknown length, from standard input.
aws s3 cp - s3://aws/dir/streamed <middle
aws s3 cp s3://aws/dir/streamed - | cmp - middle
# In the gateway: UploadPartCopy above 8 MiB, CopyObject below.
aws s3 cp --no-progress s3://aws/dir/http s3://aws/dir/copied
aws s3 cp s3://aws/dir/copied - | cmp - middle
for at in "$S3_HTTP" "$S3_HTTPS"; do
  printf small | aws s3 cp --endpoint-url "$at" --metadata case=17 --content-type text/plain - s3://aws/dir/small
done
aws s3 cp --no-progress s3://aws/dir/small s3://aws/dir/small-copied
equal "17 text/plain" "$(aws s3api head-object --bucket aws --key dir/small-copied --output text \
  --query '[Metadata.case, ContentType]' | tr '\t' ' ')"
aws s3 mv --no-progress s3://aws/dir/small-copied s3://aws/dir/moved
equal small "$(aws s3 cp s3://aws/dir/moved -)"
refused 404 aws s3 cp s3://aws/dir/small-copied -
equal "PRE dir/" "$(aws s3 ls s3://aws | sed 's/^ *//')"
equal "6" "$(aws s3 ls --recursive s3://aws | wc -l)"

echo "sync, both ways"
aws s3 sync --only-show-errors "$S3_TREE" s3://aws/tree
aws s3 sync --only-show-errors s3://aws/tree tree
same "$S3_TREE" tree
equal "" "$(aws s3 sync s3://aws/tree tree)"
echo more >tree/added
rm -f "$(find tree -type f ! -name added | sort | head -n 1)"
aws s3 sync --only-show-errors --delete tree s3://aws/tree
aws s3 sync --only-show-errors --delete s3://aws/tree again
same tree again

echo "presign, and curl"
for at in "$S3_HTTP" "$S3_HTTPS"; do
  url=$(aws s3 presign --endpoint-url "$at" s3://aws/dir/http)
  curl -fsS --cacert "$S3_CA" "$url" | cmp - middle
  url=$(aws s3 presign --endpoint-url "$at" --expires-in 1 s3://aws/dir/small)
  sleep 2
  equal 403 "$(curl -sS --cacert "$S3_CA" -o expired -w '%{http_code}' "$url")"
  grep -q 'AccessDenied.*Request has expired' expired || broken "$(cat expired)"
done
equal 403 "$(curl -sS --cacert "$S3_CA" -o forged -w '%{http_code}' \
  "$(aws s3 presign s3://aws/dir/small | sed 's/small/moved/')")"
grep -q SignatureDoesNotMatch forged || broken "$(cat forged)"
equal 403 "$(curl -sS --cacert "$S3_CA" -o unsigned -w '%{http_code}' "$S3_HTTPS/aws/dir/small")"

echo "conditional writes"
put() {
  aws s3api put-object --bucket aws --key once --query ETag --output text "$@"
}
first=$(put --if-none-match '*' --body expired)
refused PreconditionFailed put --if-none-match '*' --body expired
second=$(put --if-match "$first" --body forged)
refused PreconditionFailed put --if-match "$first" --body expired
refused 304 aws s3api get-object --bucket aws --key once --if-none-match "$second" none
refused PreconditionFailed aws s3api delete-object --bucket aws --key once --if-match "$first"
aws s3api delete-object --bucket aws --key once --if-match "$second"
refused 404 aws s3api head-object --bucket aws --key once

echo "checksums"
for algorithm in CRC32 SHA1 SHA256; do
  aws s3 cp --no-progress --checksum-algorithm "$algorithm" middle "s3://aws/sums/$algorithm"
  aws s3 cp "s3://aws/sums/$algorithm" - | cmp - middle
done
refused BadDigest aws s3api put-object --bucket aws --key wrong --body range --checksum-crc32 AAAAAA==
refused 404 aws s3api head-object --bucket aws --key wrong

echo "object lock"
aws s3api create-bucket --bucket aws-locked --object-lock-enabled-for-bucket >/dev/null
aws s3api put-object-lock-configuration --bucket aws-locked --object-lock-configuration \
  'ObjectLockEnabled=Enabled,Rule={DefaultRetention={Mode=GOVERNANCE,Days=1}}'
aws s3 cp --no-progress middle s3://aws-locked/kept
version=$(aws s3api head-object --bucket aws-locked --key kept --query VersionId --output text)
equal GOVERNANCE "$(aws s3api get-object-retention --bucket aws-locked --key kept --query Retention.Mode --output text)"
refused AccessDenied aws s3api delete-object --bucket aws-locked --key kept --version-id "$version"
aws s3api put-object-legal-hold --bucket aws-locked --key kept --legal-hold Status=ON
equal ON "$(aws s3api get-object-legal-hold --bucket aws-locked --key kept --query LegalHold.Status --output text)"
aws s3 rm s3://aws-locked/kept
refused 404 aws s3 cp s3://aws-locked/kept -
aws s3api get-object --bucket aws-locked --key kept --version-id "$version" kept >/dev/null
cmp middle kept
refused BucketNotEmpty aws s3 rb s3://aws-locked

echo "uploads that nobody ended"
upload=$(aws s3api create-multipart-upload --bucket aws --key left --query UploadId --output text)
aws s3api upload-part --bucket aws --key left --upload-id "$upload" --part-number 1 --body range >/dev/null
equal "$upload" "$(aws s3api list-multipart-uploads --bucket aws --query 'Uploads[0].UploadId' --output text)"
aws s3api abort-multipart-upload --bucket aws --key left --upload-id "$upload"
refused NoSuchUpload aws s3api list-parts --bucket aws --key left --upload-id "$upload"

refused BucketNotEmpty aws s3 rb s3://aws
aws s3 rm --recursive --only-show-errors s3://aws
equal "" "$(aws s3 ls --recursive s3://aws)"
aws s3 rb s3://aws
refused NoSuchBucket aws s3 ls s3://aws
refused SignatureDoesNotMatch env AWS_SECRET_ACCESS_KEY=another aws s3 ls
# About a bucket it goes by what the gateway answers.
refused AuthorizationHeaderMalformed aws --region us-east-1 s3api list-buckets
aws --endpoint-url "$S3_HTTP" --region us-east-1 s3 mb s3://aws
aws --endpoint-url "$S3_HTTP" --region us-east-1 s3 rb s3://aws
refused "SSL validation failed" env AWS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt aws s3 ls
echo "all passed"
