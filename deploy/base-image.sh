#!/usr/bin/env bash
# Make a base image from Debian packages, for machines without access to an image registry.
#
# Usage: deploy/base-image.sh [TAG]
# Then:  docker build --build-arg BASE_IMAGE=TAG --network host ...
# Needs root, docker and debootstrap; uses the same package mirror as apt on this machine.
set -euo pipefail

tag="${1:-synaptoroute-base:local}"
suite="${SUITE:-bookworm}"
packages=python3,python3-venv,ca-certificates

if docker image inspect "$tag" >/dev/null 2>&1; then
  echo "$tag is there already"
  exit 0
fi

# The first mirror in the sources of this machine, in either of apt's two formats.
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
# The image must trust the certificate authority of a proxy that this machine trusts.
install -m 644 /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* \
  "$tree"/usr/share/{doc,man,locale}/* "$tree"/var/log/*.log
ln -sf python3 "$tree/usr/bin/python"
tar -C "$tree" -cf - . | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$tag" \
  >/dev/null
docker image inspect --format "$tag is made, {{.Size}} bytes" "$tag"
