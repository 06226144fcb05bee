# restic with its defaults, over HTTPS with `--cacert`, which has no variable of its own.
. "$(dirname "$0")/session.sh"
export AWS_ACCESS_KEY_ID="$S3_ACCESS_KEY" AWS_SECRET_ACCESS_KEY="$S3_SECRET" AWS_DEFAULT_REGION="$S3_REGION"
export RESTIC_REPOSITORY="s3:$S3_HTTPS/restic/backups" RESTIC_PASSWORD=session RESTIC_CACHE_DIR="$PWD/cache"
r() {
  restic --cacert "$S3_CA" "$@"
}
ids() {
  r snapshots --json | grep -o '"short_id":"[^"]*"' | cut -d'"' -f4
}

refused "Is there a repository" r snapshots
# Makes the bucket too.
says "created restic repository" r init
refused "already initialized" r init
refused "wrong password" env RESTIC_PASSWORD=another restic --cacert "$S3_CA" snapshots
refused "Access Denied" env AWS_SECRET_ACCESS_KEY=another restic --cacert "$S3_CA" snapshots

mkdir source
cp -R "$S3_TREE" source/tree
random 100 source/big
r backup source
first=$(ids)
says "no errors were found" r check --read-data
r restore "$first" --target restored
same source restored/source

echo "a second one, compared with the first"
echo more >source/added
rm -rf "source/tree/$(ls source/tree | head -n 1)"
random 20 source/big
r backup source
second=$(ids | grep -v "$first")
r diff "$first" "$second" >differences
grep -q '^+ .*/source/added$' differences || broken "$(tail differences)"
r restore latest --target latest
same source latest/source
r dump latest /source/big | cmp - source/big
says source/added r find --snapshot latest added
# What is locked is not pruned.
r list locks >locks
equal "" "$(cat locks)"

echo "forget and prune"
before=$(r stats --mode raw-data --json | grep -o '"total_size":[0-9]*' | cut -d: -f2)
r forget --prune --keep-last 1
equal "$second" "$(ids)"
after=$(r stats --mode raw-data --json | grep -o '"total_size":[0-9]*' | cut -d: -f2)
[ "$after" -lt $((before - 100000000)) ] || broken "pruned from $before to $after"
says "no errors were found" r check --read-data
rm -rf cache latest
r restore latest --target latest
same source latest/source

echo "over HTTP"
says "created restic repository" restic -r "s3:$S3_HTTP/restic/clear" init
restic -r "s3:$S3_HTTP/restic/clear" backup source/tree
says "no errors were found" restic -r "s3:$S3_HTTP/restic/clear" check --read-data
echo "all passed"
