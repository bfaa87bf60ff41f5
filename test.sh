#!/usr/bin/env bash
# Installs the Debian packages that the tests need, then runs every test. Works on a fresh Debian 12 with Rust.
# As an ordinary user without the packages, the tests that need them print why they are skipped.
set -euo pipefail
cd "$(dirname "$0")"

packages=(gcc libc6-dev pciutils mmdebstrap zstd attr acl util-linux libvirt-clients
  libvirt-daemon libvirt-daemon-driver-qemu libxml2-utils qemu-system-x86 qemu-utils ovmf
  grub-efi-amd64-bin busybox-static kmod python3-venv ffmpeg
  prometheus chromium fonts-dejavu-core openssl tmux openssh-client openssh-server
  docker.io containerd runc crun podman conmon uidmap slirp4netns strace dbus systemd libfaketime man-db procps)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then sudo=(); else sudo=(sudo); fi
  if [ ${#sudo[@]} = 0 ] || command -v sudo >/dev/null; then
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "not root and no sudo: the tests that need ${missing[*]} will say that they are skipped" >&2
  fi
fi

cargo build --workspace --all-targets
cargo clippy --workspace --all-targets -- -D warnings
cargo fmt --all --check
cargo test --workspace
