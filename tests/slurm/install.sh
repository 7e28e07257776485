#!/bin/bash
# Installs Slurm and munge for `make test-slurm` where they are missing and apt may be used; else says so and fails.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
missing=""
for daemon in munged slurmctld slurmd sbatch; do
  command -v "$daemon" >/dev/null || missing="$missing $daemon"
done
[ -n "$missing" ] || exit 0
as_root=""
if [ "$(id -u)" -ne 0 ]; then as_root="sudo -n"; fi
if ! command -v apt-get >/dev/null || ! $as_root true 2>/dev/null; then
  echo "test-slurm: not found:$missing. Installing them needs apt and root; install slurm-wlm and munge, and run this again." >&2
  exit 1
fi
echo "test-slurm: installing slurm-wlm and munge (not found:$missing)"
# No daemon is started: the tests start their own, in folders and on ports of their own.
if ! { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  apt-get install -y -qq --no-install-recommends slurm-wlm munge; }; then
  echo "test-slurm: apt could not install slurm-wlm and munge; without them nothing about Slurm was tested." >&2
  exit 1
fi
