#!/usr/bin/env bash
# Makes .venv and installs raypref into it. Usage: scripts/setup.sh [cpu|gpu]
# PYTHON names an interpreter; without it, the first Python 3.11 or 3.12 on the PATH that can make a virtual environment is taken.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-cpu}

usable() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
  local name candidate
  for name in ${PYTHON:-python3.11 python3.12 python3 python}; do
    for candidate in $(type -aP "$name"); do
      if usable "$candidate"; then
        echo "$candidate"
        return
      fi
    done
  done
  echo "setup: no usable Python 3.11 or 3.12 (with venv and ensurepip) among: ${PYTHON:-python3.11 python3.12 python3 python}." >&2
  echo "setup: install one (Debian and Ubuntu: python3.11 and python3.11-venv), or name it: make setup PYTHON=/path/to/python3.11" >&2
  return 1
}

if ! usable .venv/bin/python; then
  python=$(find_python)
  echo "setup: making .venv with $python"
  "$python" -m venv --clear .venv
fi
exec .venv/bin/python scripts/install.py "$extra"
