#!/usr/bin/env bash
# Run a pipeline on Kubeflow from CI, wait for its end, and end as it did:
#   0 succeeded   1 failed   2 unusable input   3 not known: no time or connection left, and the run goes on
#
# From the environment:
#   KFP_ENDPOINT       the server, http://host:port
#   DRRHO_IMAGE        image of the steps
#   KFP_NAMESPACE, KFP_TOKEN_COMMAND or KFP_TOKEN_FILE     where the server knows its users
#   CONFIG, PIPELINE, TIMEOUT                              optional; the config beside this script, steering, 6h
# Arguments are handed on to `drrho pipeline submit`.
#
# The commit names the pipeline's version and the training run: the same commit again uploads nothing and finds what is done.
set -euo pipefail

config=${CONFIG:-$(dirname "${BASH_SOURCE[0]}")/steering.yaml}
commit=${GITHUB_SHA:-${CI_COMMIT_SHA:-local}}
exec drrho pipeline submit "${PIPELINE:-steering}" --config "$config" --set "run=ci-${commit:0:8}" \
    --run-name "ci ${commit:0:8}" --wait --timeout "${TIMEOUT:-6h}" "$@"
