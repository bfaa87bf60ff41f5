#!/bin/sh
# Builds thruway's Debian package of programs that are built, by cargo-deb (cargo install cargo-deb).
#
#   scripts/build.sh && scripts/deb.sh [DIRECTORY]        the package comes into DIRECTORY, or target/debian
#
# A package of programs that were linked on Debian 12 asks for Debian 12: scripts/release.sh links them on Debian 11. The time
# of the newest commit stands in it as every file's time, or SOURCE_DATE_EPOCH.
set -eu
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
out=${1:-$target/debian}
if ! command -v cargo-deb >/dev/null; then
  echo "$0: cargo-deb is not installed: cargo install cargo-deb" >&2
  exit 1
fi
for program in thruway thruway-hook thruway-node thruway-runtime; do
  if [ ! -x "$target/release/$program" ]; then
    echo "$0: $target/release/$program is not built: scripts/build.sh" >&2
    exit 1
  fi
done
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
fi
export SOURCE_DATE_EPOCH

scripts/package-files.sh "$target/release" "$target/release/package"
mkdir -p "$out"
cargo deb --package thruway --no-build --no-strip --locked --offline --output "$out/"
