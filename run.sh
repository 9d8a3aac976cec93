#!/usr/bin/env bash
# From few labels to a competition's submission.
#
#   bash run.sh [CONFIG] [--set a.b=c …] [--fresh] [--debug] [--workspace DIR]    set up and run the main job
#   bash run.sh test [pytest's arguments]                                         set up, run ruff and the tests
#   bash run.sh setup                                                             only set up
#
# CONFIG is configs/sample.yaml unless named. What is done already is skipped; --fresh does it again.
# Set-up makes .venv with python3, or with the Python that PYTHON names: PYTHON=python3.12 bash run.sh
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$top/.venv
requirements=$top/requirements.txt
stamp=$venv/set-up.txt # what .venv was set up from; written last, so that it exists = the set-up is whole

fail() {
    echo "run.sh: $1" >&2
    exit "${2:-2}"
}

# What .venv depends on: the version of the Python $1 and the pins.
state() {
    "$1" -V 2>&1 && cat "$requirements"
}

# Print the first pin that the Python $1 lacks for $2 (run or test), or nothing. The same major.minor fits.
first_misfit() {
    "$1" - "$requirements" "$2" <<'END'
import re
import sys
from importlib.metadata import PackageNotFoundError, version

with open(sys.argv[1], encoding="utf-8") as file:
    main, _, tests = file.read().partition("# for the tests")
for line in (main + tests if sys.argv[2] == "test" else main).splitlines():
    name, _, pin = line.partition("#")[0].strip().partition("==")
    if not name:
        continue
    try:
        found = version(name)
    except PackageNotFoundError:
        found = ""
    if re.findall(r"\d+", found)[:2] != re.findall(r"\d+", pin)[:2]:
        print(name, pin)
        break
END
}

# Set $python to an interpreter that has all the pins, making .venv where there is none.
set_up() {
    local base=${PYTHON:-python3} misfit
    if [[ -f $stamp && -x $venv/bin/python && $(<"$stamp") == "$(state "${PYTHON:-$venv/bin/python}")" ]]; then
        python=$venv/bin/python
        return
    fi
    command -v "$base" >/dev/null ||
        fail "no $base here; install Python 3.11 or newer, or name one: PYTHON=/path/to/python3 bash run.sh"
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$base is $("$base" -V 2>&1), too old: name a Python of 3.11 or newer: PYTHON=python3.11 bash run.sh"
    misfit=$(first_misfit "$base" "$1")
    if [[ -z $misfit ]]; then
        python=$base
        return
    fi
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$base has no venv or no pip; install them (Debian, Ubuntu: apt install python3-venv python3-pip)"

    echo "setting up .venv, since $base has no $misfit: some minutes, the first time only" >&2
    rm -f "$stamp"
    if ! "$venv/bin/python" -m pip --version &>/dev/null ||
        [[ -n ${PYTHON:-} && $("$venv/bin/python" -V) != "$("$base" -V)" ]]; then
        "$base" -m venv --clear "$venv" || fail "$base could not make $venv; its reason stands above" 1
    fi
    python=$venv/bin/python
    "$python" -m pip install -qq --disable-pip-version-check -r "$requirements" ||
        fail "pip could not install requirements.txt; its reason stands above, and the same command goes on" 1
    state "$python" >"$stamp.tmp"
    mv "$stamp.tmp" "$stamp"
}

run_tests() {
    local code=0
    cd "$top"
    "$python" -m ruff check . || code=$?
    "$python" -m pytest "$@" || code=$?
    exit "$code"
}

run_stages() {
    local arguments=() named=""
    while (($#)); do
        case $1 in
            --set | --workspace | --config)
                (($# > 1)) || fail "$1 needs a value"
                arguments+=("$1" "$2")
                shift
                ;;
            --set=* | --workspace=* | --config=* | --debug | --fresh) arguments+=("$1") ;;
            -*) fail "unknown option $1; bash run.sh --help shows them" ;;
            *)
                [[ -z $named ]] || fail "one config at a time, not $named and $1"
                named=$1
                arguments+=(--config "$1")
                ;;
        esac
        shift
    done
    set_up run
    # bash before 4.4 takes an empty array for an unset one
    exec "$python" -u "$top/src/run_stages.py" ${arguments[@]+"${arguments[@]}"}
}

case ${1:-} in
    -h | --help) awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "${BASH_SOURCE[0]}" ;;
    setup)
        (($# == 1)) || fail "setup takes no arguments"
        set_up test
        ;;
    test)
        shift
        set_up test
        run_tests "$@"
        ;;
    *) run_stages "$@" ;;
esac
