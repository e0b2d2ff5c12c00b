#!/usr/bin/env bash
# run.sh VENV RESULT TESTS... runs pytest against a server of its own, in a
# shell that `eval "$(lapis connect)"` alone has set up. RESULT is a JUnit file.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/$1 result=$PWD/$2
shift 2
export PATH="$PWD/bin:$PATH"

work=$(mktemp -d "${TMPDIR:-/tmp}/lapis-tests.XXXXXX")
export LAPIS_DATA=$work/data
# A port of its own, free now; a server that cannot have it says so below.
port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')

lapis up --listen "localhost:$port" --slots 4 >"$work/up.txt" 2>&1 &
server=$!
finish() {
  status=$?
  lapis down --jobs >/dev/null 2>&1 || true
  for _ in $(seq 100); do kill -0 $server 2>/dev/null || break; sleep 0.1; done
  kill -9 $server 2>/dev/null || true
  if [ $status -eq 0 ]; then rm -rf "$work"; else
    echo "The server's data folder is kept: $work"
    tail -n 20 "$work/data/logs/server.log" 2>/dev/null || cat "$work/up.txt"
  fi
  exit $status
}
trap finish EXIT

for _ in $(seq 100); do
  grep -q 'is ready' "$work/up.txt" && break
  kill -0 $server 2>/dev/null || { cat "$work/up.txt"; exit 1; }
  sleep 0.1
done

eval "$(lapis connect)"
mkdir -p "$(dirname "$result")" .cache/pytest
"$venv/bin/python" -m pytest -q -p no:cacheprovider --junitxml "$result" --basetemp "$work/tmp" "$@"
