# What every session of a tool stands on: strict, in a folder of its own, and with a word for what has to be refused.
# Sourced. The environment is S3_HTTP, S3_HTTPS, S3_CA, S3_REGION, S3_ACCESS_KEY, S3_SECRET and S3_TREE, a folder.
set -eu

broken() {
  echo "broken: $*" >&2
  exit 1
}

# refused TEXT COMMAND...: the command fails, and says TEXT.
refused() {
  text=$1
  shift
  if "$@" >refused.out 2>&1; then
    broken "not refused: $*"
  fi
  grep -qF -- "$text" refused.out || broken "refused without $text: $*: $(cat refused.out)"
}

# says TEXT COMMAND...: the command succeeds, and says TEXT.
says() {
  text=$1
  shift
  "$@" >says.out 2>&1 || broken "$*: $(cat says.out)"
  grep -qF -- "$text" says.out || broken "without $text: $*: $(cat says.out)"
}

# random MIB FILE
random() {
  head -c "${1}M" /dev/urandom >"$2"
}

# Files and folders of both, bytes of each.
same() {
  diff -r -- "$1" "$2" >/dev/null || broken "$1 and $2 differ: $(diff -rq -- "$1" "$2" | head -n 5)"
}

equal() {
  [ "$1" = "$2" ] || broken "'$1' is not '$2'"
}
