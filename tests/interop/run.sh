#!/usr/bin/env bash
# Clients in other languages against a built gateway. Installs them into .work beside this file:
# needs Python 3.9 or newer with venv, Node.js 18 or newer with npm, and `cargo build` done.
set -euo pipefail
cd "$(dirname "$0")"
if [ ! -x .work/venv/bin/pytest ] || [ requirements.txt -nt .work/venv/installed ]; then
  python3 -m venv .work/venv
  .work/venv/bin/pip install --quiet --requirement requirements.txt
  touch .work/venv/installed
fi
if [ ! -e .work/node-installed ] || [ package.json -nt .work/node-installed ]; then
  npm install --no-package-lock --no-audit --no-fund --loglevel=error
  touch .work/node-installed
fi
node_modules/.bin/buf lint ../..
exec .work/venv/bin/pytest -q "$@"
