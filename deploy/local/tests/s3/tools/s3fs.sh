# s3fs, told that buckets stand in the path. Else with its defaults: parts of 10 MiB, and of what changes in a file the
# parts alone, the others copied in the gateway. Mounts, and so runs as root; the bucket is made by s3cmd, as s3fs makes
# none.
. "$(dirname "$0")/session.sh"
echo "$S3_ACCESS_KEY:$S3_SECRET" >passwd
echo "$S3_ACCESS_KEY:another" >stranger
chmod 600 passwd stranger
mkdir at
serving=
cut_off() {
  if [ -n "$serving" ]; then
    umount -l at || true
    kill "$serving" 2>/dev/null || true
  fi
}
trap cut_off EXIT
trap 'exit 1' INT TERM

# fs URL PASSWD OPTION...: in the foreground.
fs() {
  url=$1 passwd=$2
  shift 2
  CURL_CA_BUNDLE="$S3_CA" exec s3fs s3fs at -f -o passwd_file="$PWD/$passwd" -o url="$url" \
    -o use_path_request_style "$@"
}
mounted() {
  grep -q " $PWD/at fuse.s3fs " /proc/mounts
}
mount_s3fs() {
  url=$1
  shift
  (fs "$url" passwd "$@") >s3fs.log 2>&1 &
  serving=$!
  tries=0
  until mounted; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ] || ! kill -0 "$serving" 2>/dev/null; then
      broken "not mounted: $(cat s3fs.log)"
    fi
    sleep 0.1
  done
}
unmount() {
  umount at
  wait "$serving" || broken "s3fs ended with $?: $(cat s3fs.log)"
  serving=
}

s() {
  s3cmd --access_key="$S3_ACCESS_KEY" --secret_key="$S3_SECRET" --region="$S3_REGION" --no-ssl \
    --host="${S3_HTTP#*://}" --host-bucket="${S3_HTTP#*://}" "$@"
}
s mb s3://s3fs
# It ends with 0 all the same.
(fs "$S3_HTTPS" stranger -o endpoint="$S3_REGION") >stranger.log 2>&1
grep -q 'result of checking service' stranger.log || broken "$(cat stranger.log)"
if mounted; then broken "mounted for a stranger"; fi

mount_s3fs "$S3_HTTPS" -o endpoint="$S3_REGION"
random 30 big
mkdir here
# Each file takes several requests: a part of the tree.
part=$(find "$S3_TREE" -mindepth 1 -maxdepth 1 -type d | sort | head -n 1)
# change FOLDER: the same for a folder here and one in the region.
change() {
  cp -R "$part" "$1/tree"
  cp big "$1/big"
  # Within a part, over the border of two, and beyond the end.
  for at in 7 10485758 31457280; do
    printf changed | dd of="$1/big" bs=1 seek="$at" conv=notrunc,fsync 2>/dev/null
  done
  echo one >"$1/appended"
  echo two >>"$1/appended"
  mkdir -p "$1/from/deep"
  cp "$part"/* "$1/from/deep/"
  mv "$1/from" "$1/to"
  mv "$1/appended" "$1/to/renamed"
  cp big "$1/cut"
  truncate -s 11000000 "$1/cut"
  : >"$1/empty"
  ln -s to/renamed "$1/link"
  chmod 640 "$1/empty"
  touch -d 2020-01-02T03:04:05Z "$1/cut"
  rm -r "$1/tree/$(ls "$1/tree" | head -n 1)"
  sync "$1/big"
}
echo "the same here and there"
change here
mkdir at/there
change at/there
same here at/there
refused "No such file" cat at/there/appended
refused "Directory not empty" rmdir at/there/to

echo "mounted again"
unmount
refused "No such file" ls at/there
# Told of no region, it goes by what the gateway answers.
mount_s3fs "$S3_HTTP"
same here at/there
list() {
  (cd "$1" && find . \( -name empty -o -name cut \) -printf '%P %m %s\n' | sort)
}
equal "$(list here)" "$(list at/there)"
equal 1577934245 "$(stat -c %Y at/there/cut)"
equal to/renamed "$(readlink at/there/link)"
# What S3 sees of it.
s get s3://s3fs/there/big - | cmp - here/big
rm -r at/there
equal "" "$(ls at)"
unmount
equal "" "$(s ls --recursive s3://s3fs)"
s rb s3://s3fs
echo "all passed"
