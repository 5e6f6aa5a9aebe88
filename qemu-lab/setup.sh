#!/bin/sh
# Install what the lab and the tests need on Debian 12: packages, and a Python venv in .venv.
# Packages need root (or sudo) once; nothing after that does.
set -eu
cd "$(dirname "$0")/.."

missing=
for package in $(cat qemu-lab/host-packages.txt tests/host-packages.txt); do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done

if [ -n "$missing" ]; then
    echo "setup: installing$missing"
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "setup: as root, run: apt-get install --no-install-recommends$missing" >&2
            exit 1
        }
        as_root=sudo
    fi
    # A policy that says 101 keeps packages such as miniupnpd from starting their service.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod +x "$policy"
        trap '$as_root rm -f "$policy"' EXIT
    fi
    $as_root apt-get update -q
    # shellcheck disable=SC2086  # one word per package
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $missing
fi

[ -x .venv/bin/python ] || python3 -m venv .venv
echo "setup: Python packages"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
touch .venv/ready
