#!/usr/bin/env bash
# Lints the contract, and tests a built gateway with clients in other languages. Passes its arguments to
# pytest. Installs the clients into .work beside this file. Needs:
#   - the gateway, by `cargo build`
#   - Python 3.9 or newer with venv
#   - Node.js 18 or newer with npm
#   - Go 1.26 or newer
#   - a JDK of version 17 or newer, and Maven 3.8 or newer
#   - nginx, and the command line of OpenSSL
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
exec .work/venv/bin/pytest -q -o tmp_path_retention_policy=failed "$@"
