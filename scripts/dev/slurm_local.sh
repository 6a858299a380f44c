#!/usr/bin/env bash
# A real SLURM on this machine for tests: one controller and two virtual nodes, in a private folder. Jobs of the
# partition "urgent" take the place of others, which have a minute to stop and then go back into the queue.
#
#   scripts/dev/slurm_local.sh up        start it; afterwards: eval "$(scripts/dev/slurm_local.sh env)"
#   scripts/dev/slurm_local.sh status    nodes and queue; exit 1 if it is down
#   scripts/dev/slurm_local.sh down      cancel all jobs, stop it, remove the folder
#
# EVERCLIP_SLURM_DIR: the folder (default: below the user's cache); EVERCLIP_SLURM_PORT: the first of four ports.
# Needs munged, slurmctld, slurmd (Debian: slurm-wlm, munge). Refuses to touch another installation.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

dir=${EVERCLIP_SLURM_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/everclip-slurm}
port=${EVERCLIP_SLURM_PORT:-27817}
nodes=(everclip1 everclip2)
daemons=(munged slurmctld "${nodes[@]}")
export SLURM_CONF=$dir/slurm.conf

fail() {
  echo "slurm_local: $*" >&2
  exit 1
}

# The process id in a pid file of ours, if that process lives and works for our folder.
alive() {
  local pid
  pid=$(cat "$dir/$1.pid" 2>/dev/null) && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$dir/" && echo "$pid"
}

check_machine() {
  local need file pid
  for need in munged slurmctld slurmd srun sbatch scontrol; do
    command -v "$need" >/dev/null || fail "$need is not installed (Debian: apt-get install slurm-wlm munge)"
  done
  for file in /etc/slurm/slurm.conf /etc/slurm-llnl/slurm.conf; do
    [[ ! -e $file ]] || fail "$file exists: this machine belongs to a cluster, which is left alone"
  done
  for pid in $(pgrep -x slurmctld; pgrep -x slurmd); do
    fail "process $pid ($(ps -o args= -p "$pid")) runs already; another SLURM is left alone"
  done
}

write_config() {
  local user node_port=$((port + 1)) cpus
  user=$(id -un)
  cpus=$(getconf _NPROCESSORS_ONLN)  # nproc follows OMP_NUM_THREADS
  cat >"$SLURM_CONF" <<CONF
ClusterName=everclip
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=10
MinJobAge=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
CONF
  for node in "${nodes[@]}"; do
    echo "NodeName=$node NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$node_port CPUs=$cpus RealMemory=4000" >>"$SLURM_CONF"
    node_port=$((node_port + 1))
  done
  cat >>"$SLURM_CONF" <<CONF
PartitionName=local Nodes=ALL Default=YES GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
CONF
}

up() {
  if alive slurmctld >/dev/null; then
    status
    return
  fi
  check_machine
  mkdir -p "$dir"/{state,spool-everclip1,spool-everclip2}
  chmod 700 "$dir"
  write_config
  (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
  trap 'down >&2; fail "did not start; the last lines of its logs stand above"' ERR
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
  slurmctld -c -f "$SLURM_CONF"
  for node in "${nodes[@]}"; do slurmd -f "$SLURM_CONF" -N "$node"; done
  for _ in $(seq 60); do
    [[ $(sinfo -h -t idle -o %D 2>/dev/null) == "${#nodes[@]}" ]] && break
    sleep 0.5
  done
  [[ $(sinfo -h -t idle -o %D) == "${#nodes[@]}" ]] || { tail -n 5 "$dir"/*.log >&2; false; }
  trap - ERR
  status
}

status() {
  alive slurmctld >/dev/null || { echo "down"; return 1; }
  sinfo -N -o "%N %T %c CPUs"
  squeue
}

down() {
  local name pid
  if alive slurmctld >/dev/null; then
    scancel --user="$(id -un)" --full || true
    for _ in $(seq 40); do [[ -n $(squeue -h 2>/dev/null) ]] || break; sleep 0.5; done
  fi
  for name in "${nodes[@]}" slurmctld munged; do
    pid=$(alive "$name") || continue
    kill "$pid"
    for _ in $(seq 40); do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
    ! kill -9 "$pid" 2>/dev/null || echo "slurm_local: $name had to be killed" >&2
  done
  [[ ! -e $SLURM_CONF ]] || rm -rf "$dir"
}

case ${1:-} in
  up | status | down) "$1" ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  *) fail "usage: $0 up|status|env|down" ;;
esac
