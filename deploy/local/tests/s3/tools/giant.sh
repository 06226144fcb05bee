# awscli again, with 5 GiB: 640 parts, put at once by ten, read by ranges at once and as one stream.
. "$(dirname "$0")/session.sh"
export AWS_ACCESS_KEY_ID="$S3_ACCESS_KEY" AWS_SECRET_ACCESS_KEY="$S3_SECRET" AWS_DEFAULT_REGION="$S3_REGION"
export AWS_ENDPOINT_URL="$S3_HTTPS" AWS_CA_BUNDLE="$S3_CA" AWS_PAGER=

aws s3 mb s3://giant
random 5120 giant
aws s3 cp --no-progress giant s3://giant/giant
equal 640 "$(aws s3api head-object --bucket giant --key giant --part-number 1 --query PartsCount)"
equal 5368709120 "$(aws s3api head-object --bucket giant --key giant --query ContentLength)"
aws s3 cp s3://giant/giant - | cmp - giant
curl -fsS --cacert "$S3_CA" "$(aws s3 presign s3://giant/giant)" | cmp - giant
aws s3 rm s3://giant/giant
refused 404 aws s3 cp s3://giant/giant -
aws s3 rb s3://giant
echo "all passed"
