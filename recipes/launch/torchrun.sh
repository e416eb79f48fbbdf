#!/usr/bin/env bash
# One recipe on several machines, started by hand: the same command on each, with its own NODE_RANK.
#   NODES=2 GPUS=8 NODE_RANK=0 MASTER=10.0.0.1 recipes/launch/torchrun.sh -c vae -c mnist   # on the first
#   NODES=2 GPUS=8 NODE_RANK=1 MASTER=10.0.0.1 recipes/launch/torchrun.sh -c vae -c mnist   # on the second
# What follows the script's name goes to `lightning-ae fit`. MASTER is an address of the first machine that all reach.
# Where machines have several networks, say which one: NCCL_SOCKET_IFNAME=eth1 (GLOO_SOCKET_IFNAME on CPUs).
set -euo pipefail

exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes "${NODES:-1}" \
  --nproc_per_node "${GPUS:-1}" \
  --node_rank "${NODE_RANK:-0}" \
  --master_addr "${MASTER:-127.0.0.1}" \
  --master_port "${PORT:-29500}" \
  -m lightning_ae.cli fit "$@" \
  --trainer.strategy "${STRATEGY:-ddp}" \
  --trainer.num_nodes "${NODES:-1}" \
  --trainer.devices "${GPUS:-1}"
