#!/usr/bin/env bash
# Build the images that the container tests use: synaptoroute-{node,coordinator,redis,haproxy}:test.
#
# With a registry, BASE_IMAGE may name any Debian with python3 and its venv module.  Without one,
# a base image is made from Debian packages, and Redis and HAProxy come from Debian, too.
# NO_CACHE=1 builds every layer again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tag="${TAG:-test}"
base="${BASE_IMAGE:-}"
cache=(${NO_CACHE:+--no-cache})
if [[ -z "$base" ]]; then
  base=synaptoroute-base:local
  deploy/base-image.sh "$base"
fi

build() {
  local name="$1" started=$SECONDS
  shift
  # Steps that install packages use the network of the host, which can reach the mirrors.
  docker build --quiet --network host --build-arg "BASE_IMAGE=$base" \
    --tag "synaptoroute-$name:$tag" "${cache[@]}" "$@" >/dev/null 2>"$log" \
    || { tail -n 40 "$log" >&2; exit 1; }
  printf 'synaptoroute-%s:%s  %s MB  %d s\n' "$name" "$tag" \
    "$(($(docker image inspect --format '{{.Size}}' "synaptoroute-$name:$tag") / 1000000))" \
    "$((SECONDS - started))"
}

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
build redis --file tests/deploy/images/redis.Dockerfile tests/deploy/images
build haproxy --file tests/deploy/images/haproxy.Dockerfile tests/deploy/images
build node --target node .
build coordinator --target coordinator .
