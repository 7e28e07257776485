"""Runs on a cluster with Slurm: submitting, going on after preemption, looking at what is there.

The scripts in ``slurm/`` are a few lines; what they do is in :mod:`ssl_affect.slurm.job`. Nothing here needs torch.
"""
