#!/bin/sh
# Run by `make test-browser`: installs the browser and its driver where permitted, then runs the tests. If it cannot, it prints why in one line.
# Usage: tests/browser/run.sh PYTHON
set -u
python=$1
"$python" -c 'import playwright' 2>/dev/null ||
  "$python" -m pip install --quiet --constraint constraints.txt --editable '.[dev,browser]' ||
  { echo "test-browser: skipped, playwright cannot be installed from the package index"; exit 0; }
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
  { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 ||
    { echo "test-browser: skipped, chromium is not installed and cannot be installed by this user (as root: apt-get install chromium)"; exit 0; }
fi
OMP_NUM_THREADS=1 exec "$python" -m pytest tests/browser -s --timeout 1200
