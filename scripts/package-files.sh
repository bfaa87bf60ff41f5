#!/bin/sh
# Makes what a package has beside the programs: manual pages, completions, the list of what is built in, and its licences.
#
#   scripts/package-files.sh PROGRAMS DIRECTORY
#
# PROGRAMS is where thruway lies (target/release). The same inputs give the same files.
set -eu

if [ $# -ne 2 ]; then
  echo "usage: $0 PROGRAMS DIRECTORY" >&2
  exit 2
fi
programs=$1 out=$2
here=$(dirname "$0")

rm -rf "$out"
mkdir -p "$out/man" "$out/completions"
"$programs/thruway" man --all "$out/man" >/dev/null
gzip --best --no-name "$out"/man/*.1
"$programs/thruway" completions bash >"$out/completions/thruway"
"$programs/thruway" completions zsh >"$out/completions/_thruway"
"$programs/thruway" completions fish >"$out/completions/thruway.fish"
"$here/sbom.py" --sbom "$out/sbom.cdx.json" --licences "$out/third-party.txt"
gzip --best --no-name "$out/third-party.txt"
