#!/usr/bin/env bash
# Make a base image out of Debian packages, for machines that reach no image registry.
#
# Usage: deploy/base-image.sh [TAG]
# Then:  docker build --build-arg BASE_IMAGE=TAG --network host ...
# Needs root, docker and debootstrap; takes packages from the mirror that apt uses here.
set -euo pipefail

tag="${1:-synaptoroute-base:local}"
suite="${SUITE:-bookworm}"
packages=python3,python3-venv,ca-certificates

if docker image inspect "$tag" >/dev/null 2>&1; then
  echo "$tag is there already"
  exit 0
fi

# The first mirror of this machine's own sources, in either of apt's two formats.
mirror_of_apt() {
  local file
  for file in /etc/apt/sources.list.d/*.sources; do
    [[ -e "$file" ]] && awk '$1 == "URIs:" {print $2; exit}' "$file"
  done
  [[ -e /etc/apt/sources.list ]] && awk '$1 == "deb" {print $2; exit}' \
    /etc/apt/sources.list
  true
}

mirror="$(mirror_of_apt | head -n 1)"
tree="$(mktemp -d)"
log="$(mktemp)"
trap 'rm -rf "$tree" "$log"' EXIT
if ! debootstrap --variant=minbase --include="$packages" "$suite" "$tree" $mirror >"$log" 2>&1
then
  tail -n 20 "$log" >&2
  exit 1
fi
# A proxy's certificate authority that this machine trusts must be trusted inside too.
install -m 644 /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* \
  "$tree"/usr/share/{doc,man,locale}/* "$tree"/var/log/*.log
ln -sf python3 "$tree/usr/bin/python"
tar -C "$tree" -cf - . | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$tag" \
  >/dev/null
docker image inspect --format "$tag is made, {{.Size}} bytes" "$tag"
