#!/usr/bin/env bash
# Trains a model the way a user would: a server, a compute, a job, its
# metrics, its files, a registered model, a prediction. Public commands only.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/bin:$PATH"

if [ -t 1 ]; then bold=$'\e[1m' blue=$'\e[36m' plain=$'\e[0m'; else bold='' blue='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
run() { # shows a command, then runs it
  printf '%s$%s' "$blue" "$plain"
  printf ' %s' "$@"
  printf '\n'
  "$@"
}

# The folder is kept, so that the next demo has its environment ready.
data=${LAPIS_DEMO_DATA:-.cache/demo}
mkdir -p "$data"
unset "${!AZUREML_ARM_@}" LAPIS_DATA

say "A server"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
printf '%s$%s lapis up --data %s --listen localhost:%s &\n' "$blue" "$plain" "$data" "$port"
lapis up --data "$data" --listen "localhost:$port" >"$data/up.txt" 2>&1 &
server=$!
trap 'lapis down --data "$data" >/dev/null 2>&1 || true; kill $server 2>/dev/null || true; wait $server 2>/dev/null || true' EXIT
for _ in $(seq 200); do
  grep -q 'is ready' "$data/up.txt" && break
  kill -0 $server 2>/dev/null || { cat "$data/up.txt" >&2; exit 1; }
  sleep 0.05
done
sed -n '1s/ (pid.*/./p' "$data/up.txt"
printf '%s$%s eval "$(lapis connect --data %s)"\n' "$blue" "$plain" "$data"
eval "$(lapis connect --data "$data")"

say "A compute of up to two nodes"
run lapis compute create --name cpu --type amlcompute --size STANDARD_DS2_V2 --min-instances 0 --max-instances 2 -o table

say "A job: examples/iris/job.yml, as for Azure Machine Learning"
job=iris-$(date +%y%m%d-%H%M%S)
run lapis job create --file examples/iris/job.yml --name "$job" --set compute=azureml:cpu --stream

say "What it measured"
run lapis job metrics --name "$job" -o table

say "What it wrote"
run lapis job files --name "$job" -o table

say "Its model, registered"
run lapis model create --name iris --type mlflow_model --path "azureml://jobs/$job/outputs/model" -o table

say "Deployed: an endpoint, and the model behind it"
run lapis online-endpoint create --file examples/iris/endpoint.yml -o table
run lapis online-deployment create --file examples/iris/deployment.yml --all-traffic -o table

say "A prediction for three flowers: the CLI's, and curl's"
run lapis online-endpoint invoke --name iris --request-file examples/iris/sample-request.json
uri=$(lapis online-endpoint show --name iris --query scoring_uri -o tsv)
key=$(lapis online-endpoint get-credentials --name iris --query primaryKey -o tsv)
printf '%s$%s curl %s -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" -d @examples/iris/sample-request.json\n' "$blue" "$plain" "$uri"
curl --silent --show-error --fail "$uri" -H "Authorization: Bearer $key" -H "Content-Type: application/json" -d @examples/iris/sample-request.json
echo

say "What to do next"
printf '  %-62s %s\n' \
  "bin/lapis up --data $data &" "start this server again" \
  "eval \"\$(bin/lapis connect --data $data)\"" "point azure-ai-ml, az and mlflow at it" \
  "bin/lapis job create -f examples/hello-code/job.yml --stream" "run a job, or one of your own"
