#!/usr/bin/env bash
# Makes a release: the four programs linked on Debian 11, so that they run wherever a C library of 2.31 or newer is (Debian 11
# to 13, Ubuntu 20.04 and newer, Proxmox VE 7 to 9, Fedora, Arch); the Debian package, an archive for other systems, the list
# of what is built in, and the sums of all.
#
#   scripts/release.sh [DIRECTORY]        target/dist without one
#
# Needs root (chroot, mounts), mmdebstrap, cargo-deb, and Debian's archive the first time. The tree is kept below target/.
set -euo pipefail
cd "$(dirname "$0")/.."

here=$(pwd -P)
out=$here/target/dist
if [ $# -gt 0 ]; then out=$(realpath -m "$1"); fi
tree=$here/target/release-tree/debian-11
target=$here/target/release-debian-11

if [ "$(id -u)" != 0 ]; then
  echo "$0: not root: chroot and mounts are needed" >&2
  exit 1
fi
for tool in mmdebstrap cargo-deb unshare objdump; do
  if ! command -v "$tool" >/dev/null; then
    echo "$0: $tool is not installed" >&2
    exit 1
  fi
done
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

if [ ! -d "$tree" ]; then
  echo "making a Debian 11 tree (half a minute; kept for later runs)"
  rm -rf "$tree.making"
  mmdebstrap --quiet --mode=root --variant=minbase --aptopt='APT::Install-Recommends "false"' \
    --include=gcc,libc6-dev bullseye "$tree.making"
  mv "$tree.making" "$tree"
fi
cargo fetch --locked
mkdir -p "$tree/src" "$tree/cargo" "$tree/rust" "$tree/target" "$target"

# The source, the crates and the toolchain are this machine's, seen at names that are the same everywhere; gcc and the C
# library are Debian 11's. No network, and none of this machine's environment.
# shellcheck disable=SC2016 # the inner shell's own
inside='set -eu
mount --bind "$2" "$1/src"; mount --bind "$3" "$1/cargo"; mount --bind "$4" "$1/rust"; mount --bind "$5" "$1/target"
mount -t proc proc "$1/proc"; mount --bind /dev "$1/dev"
exec chroot "$1" env -i PATH=/rust/bin:/usr/bin:/bin HOME=/tmp CARGO_HOME=/cargo CARGO_TARGET_DIR=/target \
  SOURCE_DATE_EPOCH="$6" /src/scripts/build.sh --offline'
unshare --mount --propagation private --pid --fork --kill-child --net sh -c "$inside" sh \
  "$tree" "$here" "${CARGO_HOME:-$HOME/.cargo}" "$(rustc --print sysroot)" "$target" "$SOURCE_DATE_EPOCH"

rm -rf "$out"
mkdir -p "$out"
CARGO_TARGET_DIR=$target scripts/deb.sh "$out"
deb=$(echo "$out"/thruway_*.deb)
version=$(dpkg-deb --field "$deb" Version)
name=thruway-${version%-*}-$(uname -m)-linux
# Other systems unpack it over /: the package's files as they are.
dpkg-deb --fsys-tarfile "$deb" | gzip --best --no-name >"$out/$name.tar.gz"
cp "$target/release/package/sbom.cdx.json" "$out/$name.sbom.cdx.json"
(cd "$out" && sha256sum -- * >SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS)
cat "$out/SHA256SUMS"
