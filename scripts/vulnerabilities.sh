#!/usr/bin/env bash
# Looks for known vulnerabilities in what the binary is built from. Without a
# way to the database nothing is known, which is said and is no failure.
set -uo pipefail
cd "$(dirname "$0")/.."

output=$(go tool -modfile=tools/go.mod govulncheck ./... 2>&1)
status=$?
if [ $status -ne 0 ] && grep -q 'fetching vulnerabilities' <<<"$output"; then
  echo "govulncheck: NOT CHECKED, the vulnerability database cannot be reached from here:"
  sed 's/^/  /' <<<"$output"
  exit 0
fi
echo "$output"
exit $status
