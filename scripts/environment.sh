# Sourced by the other scripts: go to the repository, and make the environment when it is missing or out of date.
# PYTHON names the interpreter to make it with (3.11 to 3.13); the default is python3. A script may set `environment`
# to another folder than .venv, and `requirements` to a file of what it needs besides.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
environment="${environment:-.venv}"
requirements="${requirements:-}"

_wanted() { cat pyproject.toml constraints.txt $requirements | cksum | tr ' ' '-'; }

if [ ! -x "$environment/bin/python" ] ||
  [ "$(cat "$environment/edgeseq-installed" 2>/dev/null || true)" != "$(_wanted)" ]; then
  python="${PYTHON:-python3}"
  if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
    echo "error: $("$python" --version 2>&1) found; edgeseq needs Python 3.11 to 3.13. Set PYTHON to one." >&2
    exit 2
  fi
  if [ ! -x "$environment/bin/python" ]; then
    echo "making $environment ..." >&2
    "$python" -m venv "$environment" || {
      echo "error: cannot make $environment. On Debian and Ubuntu: apt-get install python3-venv" >&2
      exit 3
    }
  fi
  echo "installing edgeseq and what it needs into $environment (some ${needs:-600 MB} the first time) ..." >&2
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --editable '.[cpu,export,cli,report,dev]' ${requirements:+-r "$requirements"} || {
    echo "error: the installation failed; the lines above say why. Run this script again to go on." >&2
    exit 3
  }
  _wanted >"$environment/edgeseq-installed"
fi
# Environment of the caller that would change what is run.
unset PYTHONPATH PYTHONHOME
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
