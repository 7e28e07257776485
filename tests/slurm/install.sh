#!/bin/bash
# Installs Slurm and munge where they are missing and apt may be used. Needs no network where they are there already.
# Exit codes: 0 they are there; 3 they are not and cannot be installed here, with one line that says why.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
missing=""
for command in munged slurmctld slurmd sbatch; do
  command -v "$command" >/dev/null || missing="$missing $command"
done
[ -n "$missing" ] || exit 0

not_here() {
  echo "Slurm tests: NOT RUN, nothing about Slurm was tested: not found:$missing; $1" >&2
  exit 3
}

as_root=""
if [ "$EUID" -ne 0 ]; then as_root="sudo -n"; fi
command -v apt-get >/dev/null || not_here "there is no apt-get; install slurm and munge yourself"
$as_root true 2>/dev/null || not_here "installing them needs root; have slurm-wlm and munge installed"

echo "Slurm tests: installing slurm-wlm and munge (not found:$missing)"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
apt="timeout 300 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20"
# No daemon is started: the tests start their own, in folders and on ports of their own.
# shellcheck disable=SC2086 # the words are separate on purpose
if ! { $as_root $apt update && $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  $apt install -y --no-install-recommends slurm-wlm munge; } >"$log" 2>&1; then
  not_here "apt could not install slurm-wlm and munge ($(grep -v '^W:' "$log" | tail -n 1))"
fi
