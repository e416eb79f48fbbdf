#!/usr/bin/env bash
# One recipe on a SLURM cluster, that goes on by itself after pre-emption or at the end of its time.
#   sbatch recipes/launch/slurm.sh -c vae -c mnist
# What follows the script's name goes to `lightning-ae fit`. As many tasks as GPUs on each node: Lightning takes one
# rank for each task.
#SBATCH --job-name=lightning-ae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

# Two minutes before the end each rank gets SIGTERM: the run writes preempted.ckpt after the step at hand and ends with
# status 143. Lightning's own requeueing would save in the middle of a step, so it is off; this script requeues instead.
run="runs/slurm-${SLURM_JOB_ID}-${SLURM_RESTART_COUNT:-0}"
resume=()
for checkpoint in $(ls -t runs/slurm-"${SLURM_JOB_ID}"-*/checkpoints/preempted.ckpt 2>/dev/null | head -n 1); do
  resume=(--ckpt_path "$checkpoint")
done

status=0
srun lightning-ae fit "$@" \
  --trainer.strategy ddp \
  --trainer.num_nodes "$SLURM_NNODES" \
  --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --trainer.plugins '{"class_path": "lightning_fabric.plugins.environments.SLURMEnvironment", "init_args": {"auto_requeue": false}}' \
  --run_dir "$run" "${resume[@]}" || status=$?

if [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
