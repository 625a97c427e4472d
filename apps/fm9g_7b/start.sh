# What run_bmtrain.sh and run_bmtrain_lora.sh do with their table `args` and the words of the command line.

set -u
app="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$app/../.." && pwd)"
python="${PYTHON:-}"
if [ -z "$python" ]; then
  if [ -x "$root/.venv/bin/python" ]; then python="$root/.venv/bin/python"; else python=python3; fi
fi

FM9G_ARGS_TABLE=""
for key in "${!args[@]}"; do
  FM9G_ARGS_TABLE+="$key=${args[$key]}"$'\n'
done
export FM9G_ARGS_TABLE
# with NCCL, a lost peer must end the process instead of hanging it
export TORCH_NCCL_ASYNC_ERROR_HANDLING="${TORCH_NCCL_ASYNC_ERROR_HANDLING:-1}"

exec "$python" "$app/launch.py" "$app/pretrain.py" "$@"
