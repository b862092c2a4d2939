#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Brings a Debian 12 (bookworm) or 13 (trixie) to readiness: packages, virtiofsd, kernel headers for bcc, the venv and two
# kernel images to verify on. First looks (no network, under a second), then mends only what is missing. The system's own
# apt sources are never changed: what bookworm lacks comes from its backports through a configuration in the cache.
#
#   SCHEDCTL_OFFLINE=1   do what needs no network, name what is missing, exit 1 if anything is
#   SCHEDCTL_CACHE=DIR   as everywhere in schedctl (controller/paths.py)

set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
cd "$(dirname "$0")/.."

if [[ -n ${SCHEDCTL_CACHE:-} ]]; then cache=$SCHEDCTL_CACHE
elif [[ $EUID -eq 0 ]]; then cache=/var/cache/schedctl
else cache=${XDG_CACHE_HOME:-$HOME/.cache}/schedctl
fi
log=$cache/setup.log
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
python=/usr/bin/python3   # the system's own, not a version manager's: bcc is built for it
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")

packages=(clang-19 libc6-dev make python3-venv python3-bpfcc linux-headers-amd64 busybox-static rt-tests stress-ng rt-app
          bubblewrap git kmod flac debian-archive-keyring)
# Newer than bookworm's own: libbpf 1.1 skips the .struct_ops.link section, QEMU 7.2's emulator breaks guests.
newer=(libbpf1 bpftool qemu-system-x86)
declare -A at_least=([libbpf1]=1:1.2 [qemu-system-x86]=1:10)
case $release in
  bookworm) packages+=(libcap-ng0 libseccomp2) ;;   # what 7.2's virtiofsd is linked with
  *)        packages+=("${newer[@]}" virtiofsd); newer=() ;;
esac

say()  { printf '%s\n' "$*" >&2; }
fail() { say "setup: $1"; [[ -z ${2:-} ]] || say "       $2"; exit 1; }

# Runs a command with its output in the log; on failure the end of it is shown.
logged() {
  printf '\n$ %s\n' "$*" >>"$log"
  "$@" >>"$log" 2>&1 && return
  say "setup: failed: $*"
  tail -n 25 "$log" | sed 's/^/    /' >&2
  fail "the whole log is in $log" "check the network and apt's sources, then run make setup again"
}

as_root() { if [[ $EUID -eq 0 ]]; then "$@"; else sudo "$@"; fi; }

# --- looking ---------------------------------------------------------------------------------------------------------

# Prints the packages among "$@" that are not installed, or too old.
missing_packages() {
  local -A version=()
  local name installed status
  while read -r name status installed; do
    if [[ $status == installed ]]; then version[$name]=$installed; fi
  done < <(dpkg-query -W -f '${Package} ${db:Status-Status} ${Version}\n' "$@" 2>/dev/null || true)
  for name in "$@"; do
    if [[ -z ${version[$name]:-} ]] ||
       { [[ -n ${at_least[$name]:-} ]] && dpkg --compare-versions "${version[$name]}" lt "${at_least[$name]}"; }; then
      echo "$name"
    fi
  done
}

have_virtiofsd() {
  local place
  command -v virtiofsd >/dev/null && return
  for place in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd "$cache/tools/virtiofsd"; do [[ -x $place ]] && return; done
  return 1
}

# The release whose header trees linux-headers-amd64 stands for, such as 6.1.0-56.
headers_release() {
  dpkg-query -W -f '${Depends}' linux-headers-amd64 2>/dev/null | sed -n 's/^linux-headers-\([^ ,]*\)-amd64.*/\1/p'
}

have_headers() {
  local wanted
  wanted=$(headers_release)
  [[ -n $wanted && $(cat "$cache/headers/.release" 2>/dev/null) == "$wanted" ]]
}

venv_stamp() { { cat pyproject.toml; "$python" --version; pwd; } | sha256sum; }
have_venv()  { [[ -x .venv/bin/schedctl && -e $(echo .venv/lib/python3*/site-packages/bcc) &&
                  $(cat .venv/.setup 2>/dev/null) == "$(venv_stamp)" ]]; }

have_kernels() { [[ $(compgen -G "$cache/kernels/*/vmlinuz" | wc -l) -ge 2 ]]; }

look() {
  mapfile -t missing < <(missing_packages "${packages[@]}")
  mapfile -t missing_newer < <(missing_packages "${newer[@]}")
  wanted=()
  [[ ${#missing[@]} -eq 0 ]] || wanted+=("packages: ${missing[*]}")
  [[ ${#missing_newer[@]} -eq 0 ]] || wanted+=("packages from $release-backports: ${missing_newer[*]}")
  have_virtiofsd || wanted+=("virtiofsd")
  have_headers || wanted+=("merged kernel headers for bcc: $cache/headers")
  have_venv || wanted+=("the venv: .venv")
  have_kernels || wanted+=("two sched_ext kernel images: $cache/kernels")
}

# --- mending ---------------------------------------------------------------------------------------------------------

# The address of the Debian archive that this machine's apt uses already.
archive_address() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $release" 'Origin: Debian' | head -n 1
}

# Sets `backports` to the apt options of a private configuration: the system's sources and this release's backports.
private_backports() {
  local root=$cache/apt-setup address file
  mkdir -p "$root/parts" "$root/lists/partial"
  rm -f "$root"/parts/*
  : >"$root/none.list"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [[ -e $file ]]; then cp "$file" "$root/parts/system-$(basename "$file")"; fi
  done
  if [[ -z $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $release-backports") ]]; then
    address=$(archive_address)
    [[ -n $address ]] || fail "apt knows no Debian archive for $release" "add it to /etc/apt/sources.list.d"
    echo "deb [signed-by=$keyring] $address $release-backports main" >"$root/parts/backports.list"
  fi
  backports=(-o "Dir::Etc::sourcelist=$root/none.list" -o "Dir::Etc::sourceparts=$root/parts"
             -o "Dir::State::Lists=$root/lists" -o APT::Sandbox::User=root)
}

install_packages() {
  local apt=(apt-get -q -y --no-install-recommends -o Dpkg::Use-Pty=0 -o Acquire::Retries=3)
  local backports=()
  if [[ $EUID -ne 0 ]] && ! command -v sudo >/dev/null; then
    fail "packages are missing and this is not root: ${missing[*]} ${missing_newer[*]}" "run once as root: make setup"
  fi
  say "► reading the package index"
  logged as_root apt-get -q update
  if [[ ${#missing[@]} -gt 0 ]]; then
    say "► installing ${missing[*]}"
    logged as_root "${apt[@]}" install "${missing[@]}"
  fi
  if [[ ${#missing_newer[@]} -gt 0 ]]; then
    say "► installing ${missing_newer[*]} from $release-backports"
    private_backports
    logged as_root apt-get -q "${backports[@]}" update
    logged as_root "${apt[@]}" "${backports[@]}" -t "$release-backports" install "${missing_newer[@]}"
  fi
}

# Bookworm: QEMU 7.2's package has a virtiofsd that works with QEMU 10 too, and backports' QEMU 10 has none.
unpack_virtiofsd() {
  local work version
  say "► unpacking virtiofsd"
  work=$(mktemp -d "$cache/virtiofsd.XXXXXX")
  version=$(apt-cache madison qemu-system-common | awk '$3 ~ /^1:7\./ { print $3; exit }')
  [[ -n $version ]] || fail "apt offers no qemu-system-common 7.2 to take virtiofsd from" "apt-get update, then make setup"
  (cd "$work" && logged apt-get -q -o APT::Sandbox::User=root download "qemu-system-common=$version")
  logged dpkg-deb -x "$work"/*.deb "$work/tree"
  mkdir -p "$cache/tools"
  mv "$work/tree/usr/lib/qemu/virtiofsd" "$cache/tools/virtiofsd"
  rm -rf "$work"
  logged "$cache/tools/virtiofsd" --version
}

# bcc wants one tree; Debian splits it in two that only work together.
merge_headers() {
  local wanted work
  wanted=$(headers_release)
  say "► merging the headers of kernel $wanted"
  work=$cache/headers.new
  rm -rf "$work"
  mkdir -p "$work"
  cp -as "/usr/src/linux-headers-$wanted-common/." "$work"
  cp -asf "/usr/src/linux-headers-$wanted-amd64/." "$work"
  echo "$wanted" >"$work/.release"
  rm -rf "$cache/headers"
  mv "$work" "$cache/headers"
}

make_venv() {
  local site
  say "► making .venv and installing the Python packages"
  if ! grep -qx "home = /usr/bin" .venv/pyvenv.cfg 2>/dev/null || ! .venv/bin/python -c '' 2>/dev/null; then
    rm -rf .venv
    logged "$python" -m venv .venv
  fi
  logged .venv/bin/python -m pip install --disable-pip-version-check --quiet -e '.[dev,search]'
  site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # PyPI's bcc is another thing; the real one is the system interpreter's package.
  ln -sfn /usr/lib/python3/dist-packages/bcc "$site/bcc"
  logged .venv/bin/python -c 'import bcc; bcc.BPF'
  venv_stamp >.venv/.setup
}

pull_kernels() {
  say "► fetching the newest and the oldest kernel with sched_ext"
  logged .venv/bin/python -c 'from controller.kernel import images; [images.pull(which) for which in ("newest", "oldest")]'
}

# The first verification on a kernel boots it and measures its own scheduler, which all later ones start from.
warm_kernel() {
  local stamp
  stamp=$cache/warm-$(cat controller/verify/scenarios/*.py controller/kernel/*.py bpf/guest/*.c | sha256sum | cut -c1-16)
  if [[ -e $stamp ]]; then return; fi
  say "► preparing the newest kernel for verification (once, about a minute)"
  if .venv/bin/schedctl kernel warm newest >>"$log" 2>&1; then
    rm -f "$cache"/warm-*
    : >"$stamp"
  else
    say "  it could not be prepared (see $log): the first verification says why"
  fi
}

# --- main ------------------------------------------------------------------------------------------------------------

command -v dpkg-query apt-get >/dev/null || fail "this is no Debian: there is no apt" "use Debian 12 or 13"
[[ $(dpkg --print-architecture) == amd64 ]] || fail "only amd64 is supported" "use an x86-64 machine"

look
if [[ ${#wanted[@]} -eq 0 ]]; then
  warm_kernel
  say "✔ nothing is missing"
  exit 0
fi
mkdir -p "$cache"
: >"$log"
if [[ ${SCHEDCTL_OFFLINE:-} != 1 ]]; then
  if [[ $((${#missing[@]} + ${#missing_newer[@]})) -gt 0 ]]; then install_packages; fi
  have_virtiofsd || unpack_virtiofsd
fi
if ! have_headers && [[ -d /usr/src/linux-headers-$(headers_release)-amd64 ]]; then merge_headers; fi
if [[ ${SCHEDCTL_OFFLINE:-} != 1 ]]; then
  have_venv || make_venv
  have_kernels || pull_kernels
fi
look
if [[ ${#wanted[@]} -gt 0 ]]; then
  say "setup: still missing:"
  printf '  ✗ %s\n' "${wanted[@]}" >&2
  if [[ ${SCHEDCTL_OFFLINE:-} == 1 ]]; then fail "SCHEDCTL_OFFLINE=1 forbids fetching" "with a network: make setup"; fi
  fail "the log is in $log"
fi
warm_kernel
say "✔ ready"
