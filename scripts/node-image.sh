#!/bin/sh
# Builds the image of the node agent out of one program: the binary, the loader and the libraries that it is linked with,
# certificates for the API, and nothing else. An OCI layout directory comes out; needs umoci, or buildah where there is none.
#
#   cargo build --release -p thruway-node
#   scripts/node-image.sh target/release/thruway-node out/image 0.1.0
#   skopeo copy oci:out/image:0.1.0 docker://REGISTRY/thruway-node:0.1.0
#
# The same inputs give the same layer: names sorted, no owner, SOURCE_DATE_EPOCH (or 0) as every time. The user is nobody: the
# manifests say where the agent must be root. The commit stands in a label, where git tells one.
set -eu

if [ $# -ne 3 ]; then
  echo "usage: $0 PROGRAM DIRECTORY TAG" >&2
  exit 2
fi
program=$1 out=$2 tag=$3
epoch=${SOURCE_DATE_EPOCH:-0}

if [ ! -x "$program" ]; then
  echo "$0: $program is no program; build it: cargo build --release -p thruway-node" >&2
  exit 1
fi
if command -v umoci >/dev/null; then
  builder=umoci
elif command -v buildah >/dev/null; then
  builder=buildah
else
  echo "$0: neither umoci nor buildah is installed: apt install umoci" >&2
  exit 1
fi
case $(uname -m) in
  x86_64) arch=amd64 ;;
  aarch64) arch=arm64 ;;
  *) echo "$0: no image for $(uname -m)" >&2; exit 1 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
root=$work/root
mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/host" "$root/config" "$root/tmp" "$root/var/lib/thruway"
install -m 0755 "$program" "$root/usr/bin/thruway-node"

# What the loader says it maps: "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", and itself with no arrow. libdl,
# librt and libpthread are asked for by NVIDIA's libraries, which are loaded later from the host.
ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | sort -u >"$work/libraries"
libc=$(grep '/libc\.so' "$work/libraries" | head -n 1 || true)
if [ -n "$libc" ]; then
  for name in libdl.so.2 librt.so.1 libpthread.so.0 libm.so.6 libgcc_s.so.1; do
    if [ -e "$(dirname "$libc")/$name" ]; then
      echo "$(dirname "$libc")/$name" >>"$work/libraries"
    fi
  done
fi
sort -u "$work/libraries" | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
fi
printf 'root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n' >"$root/etc/passwd"
find "$root" -exec touch --no-dereference --date="@$epoch" {} +

revision=$(git -C "$(dirname "$0")" rev-parse HEAD 2>/dev/null || echo unknown)
version=$("$program" --version | cut -d ' ' -f 2)
created=$(date --utc --date="@$epoch" +%Y-%m-%dT%H:%M:%SZ)
case $builder in
  umoci)
    if [ ! -e "$out/oci-layout" ]; then
      mkdir -p "$(dirname "$out")"
      umoci init --layout "$out"
    fi
    # A tag that is there is made anew.
    umoci rm --image "$out:$tag" 2>/dev/null || true
    umoci new --image "$out:$tag"
    umoci config --image "$out:$tag" --no-history --created "$created" --architecture "$arch" --os linux \
      --config.entrypoint /usr/bin/thruway-node --config.user 65534:65534 \
      --config.label org.opencontainers.image.title=thruway-node \
      --config.label "org.opencontainers.image.description=GPUs of a Kubernetes node: device plugin, labels, health" \
      --config.label "org.opencontainers.image.version=$version" \
      --config.label "org.opencontainers.image.revision=$revision" \
      --config.label "org.opencontainers.image.created=$created" \
      --config.label org.opencontainers.image.licenses=Apache-2.0
    tar --directory="$root" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" \
      --create --file="$work/layer.tar" .
    umoci raw add-layer --image "$out:$tag" --history.created "$created" --history.created_by scripts/node-image.sh "$work/layer.tar"
    umoci gc --layout "$out"
    ;;
  buildah)
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$root" /
    buildah config --arch "$arch" --os linux --entrypoint '["/usr/bin/thruway-node"]' --user 65534:65534 \
      --label org.opencontainers.image.title=thruway-node --label org.opencontainers.image.licenses=Apache-2.0 \
      --label "org.opencontainers.image.description=GPUs of a Kubernetes node: device plugin, labels, health" \
      --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$revision" \
      --label "org.opencontainers.image.created=$created" "$container"
    buildah commit --quiet --timestamp "$epoch" --rm "$container" "oci:$out:$tag"
    ;;
esac
echo "$out:$tag: $(du -sk "$root" | cut -f 1) KiB unpacked, $(du -sk "$out" | cut -f 1) KiB as an image"
