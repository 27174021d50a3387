#!/usr/bin/env bash
# Runs each fuzz target of the module for the given time. It fails if a target
# finds something, and if there is no target.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
time=${1:-10s}
fuzz() { go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -parallel 2 "$1" 2>&1; }
ran=0
for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
	# Compiling the tests of a package only to list nothing takes long.
	grep -qs '^func Fuzz' "$(go list -f '{{.Dir}}' "$package")"/*_test.go || continue
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz'); do
		echo "fuzz $package $target for $time"
		if ! output=$(fuzz "$package" "$target"); then
			# When its time ends in the middle of an input, go test may call that a
			# failure, without an input that fails. Then the target has another go.
			if grep -q 'Failing input' <<<"$output" || ! grep -q 'context deadline exceeded' <<<"$output" ||
				! output=$(fuzz "$package" "$target"); then
				echo "$output"
				exit 1
			fi
		fi
		tail -n 3 <<<"$output"
		ran=$((ran + 1))
	done
done
if [ "$ran" -eq 0 ]; then
	echo "no fuzz target found" >&2
	exit 1
fi
echo "$ran fuzz targets passed"
