#!/usr/bin/env bash
# Grants access to the container of a repository, as its owner, whose credentials
# are in ST_AUTH, ST_USER and ST_KEY, or in the OS_ variables:
#
#	grant.sh CONTAINER READERS [WRITERS]
#
# READERS restore and verify; WRITERS make backups, and could delete. Each is a
# list of PROJECT:USER, or ACCOUNT:USER with the old authentication, separated by
# commas. What was granted before is taken away.
set -euo pipefail
container=${1:?"grant.sh CONTAINER READERS [WRITERS]"}
readers=${2:?"who may read, such as project:user"}
writers=${3:-}
swift post "$container" --read-acl "$readers${writers:+,$writers},.rlistings" --write-acl "$writers"
swift stat "$container" | grep -i 'ACL:'
