#!/bin/sh
# Builds the four programs that are shipped, so that the same source, toolchain and C library give the same bytes wherever it
# lies: no path of this machine gets into them. Into CARGO_TARGET_DIR/release, or target/release.
set -eu
cd "$(dirname "$0")/.."

here=$(pwd -P)
target=${CARGO_TARGET_DIR:-$here/target}
cargo_home=${CARGO_HOME:-$HOME/.cargo}
RUSTFLAGS="--remap-path-prefix=$target=/target --remap-path-prefix=$here=/thruway --remap-path-prefix=$cargo_home=/cargo"
CFLAGS="-ffile-prefix-map=$target=/target -ffile-prefix-map=$here=/thruway -ffile-prefix-map=$cargo_home=/cargo"
export RUSTFLAGS CFLAGS
export CARGO_INCREMENTAL=0
exec cargo build --release --locked "$@" -p thruway -p thruway-hook -p thruway-node -p thruway-runtime
