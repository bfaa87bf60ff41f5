#!/bin/sh
# Builds thruway's Debian package of programs that are built, by cargo-deb (cargo install cargo-deb).
#
#   scripts/build.sh && scripts/deb.sh [--here] [DIRECTORY]        the package comes into DIRECTORY, or target/debian
#
# Programs that were linked on Debian 12 do not run on Debian 11, so they are refused; scripts/release.sh links them there.
# With --here they are taken, and the package asks for what dpkg-shlibdeps says. The time of the newest commit stands in it as
# every file's time, or SOURCE_DATE_EPOCH.
set -eu
cd "$(dirname "$0")/.."

variant=
if [ "${1:-}" = --here ]; then
  variant=--variant=here
  shift
fi
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
floor=$(sed -n 's/^depends = "libc6 (>= \(.*\))"$/\1/p' crates/thruway/Cargo.toml)
for program in thruway thruway-hook thruway-node thruway-runtime; do
  newest=$(objdump -T "$target/release/$program" 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | cut -c 7- | sort -V | tail -n 1 || true)
  echo "$program: ${newest:-static, no} C library"
  if [ -z "$variant" ] && [ "$(printf '%s\n' "$newest" "$floor" | sort -V | tail -n 1)" != "$floor" ]; then
    echo "$0: $program asks for $newest of the C library, newer than $floor: scripts/release.sh, or $0 --here" >&2
    exit 1
  fi
done
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
fi
export SOURCE_DATE_EPOCH

scripts/package-files.sh "$target/release" "$target/release/package"
mkdir -p "$out"
# shellcheck disable=SC2086 # empty, or one word
cargo deb --package thruway $variant --no-build --no-strip --locked --offline --output "$out/"
