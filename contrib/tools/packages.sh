#!/usr/bin/env bash
# Installs those of the named Debian packages that are missing. Nothing that
# they bring is started as a service of this machine.
set -euo pipefail

missing=()
for package in "$@"; do
	dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
export RUNLEVEL=1 # in which services are not started
apt-get update
apt-get install -y --no-install-recommends "${missing[@]}"
