#!/usr/bin/env bash
# Builds the newest commit twice, in two directories of different names, and compares programs, package and list byte by byte.
#
#   scripts/reproducible.sh [DIRECTORY]        a directory of its own without one; it is taken away in the end
#
# Needs cargo-deb for the package. Two release builds: some ten minutes on two cores. Exit status: 0 the same, 1 not.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d -p "${1:-${TMPDIR:-/tmp}}" reproducible-XXXXXX)
trap 'rm -rf "$work"' EXIT INT TERM
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
unset CARGO_TARGET_DIR RUSTFLAGS

sums() { # DIRECTORY
  (cd "$1/target/release" && sha256sum thruway thruway-hook thruway-node thruway-runtime package/sbom.cdx.json)
  (cd "$1/target/debian" 2>/dev/null && sha256sum -- *.deb) || true
}

for place in one another/and-longer; do
  mkdir -p "$(dirname "$work/$place")"
  git clone --quiet --no-hardlinks . "$work/$place"
  (
    cd "$work/$place"
    scripts/build.sh
    if command -v cargo-deb >/dev/null; then
      scripts/deb.sh --here
    else
      echo "$0: cargo-deb is not installed: the package is not compared" >&2
      scripts/package-files.sh target/release target/release/package
    fi
  )
  sums "$work/$place" >"$work/$(basename "$place").sums"
  # the disk need not hold both
  find "$work/$place/target/release" -mindepth 1 -maxdepth 1 -type d ! -name package -exec rm -rf {} +
done

cat "$work/one.sums"
if cmp --silent "$work/one.sums" "$work/and-longer.sums"; then
  echo "the same bytes, twice"
else
  echo "$0: the second build differs:" >&2
  diff "$work/one.sums" "$work/and-longer.sums" >&2 || true
  exit 1
fi
