#!/bin/sh
# Installs cuota on this machine, puts a newer one in its place while programs run, or removes it.
#
#     ./install.sh                     install below /usr/local, or upgrade what is there
#     ./install.sh --prefix /opt/cuota install below another folder
#     ./install.sh --remove            remove it from there
#
# From the archive that scripts/dist makes it installs what lies beside it; in the repository, what `cargo build --release` made.
# It changes nothing but its own files. To load the library into every program of this machine, or into containers:
# `cuota inject --help`.
#
# Each file is written beside the old one and renamed into its place. A program that runs keeps the library that it has mapped;
# programs that start later get the new one. Never copy over the library of a running program: that changes the code it runs.
set -eu
# What is installed is for every user: who cannot read the library runs without a limit.
umask 022

fail() {
    echo "install.sh: $*" >&2
    exit 1
}
usage() {
    sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
}

prefix=/usr/local
remove=
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) [ $# -gt 1 ] || usage; prefix=$2; shift ;;
        --prefix=*) prefix=${1#*=} ;;
        --remove) remove=1 ;;
        -h | --help) usage ;;
        *) echo "install.sh: what is $1?" >&2; usage ;;
    esac
    shift
done
case $prefix in
    /) prefix= ;;
    /*) prefix=${prefix%/} ;;
    *) fail "--prefix $prefix is no full path. Name one that begins with a slash." ;;
esac
case $prefix in
    *[!A-Za-z0-9._/+-]*) fail "--prefix $prefix: the dynamic linker cannot preload from a path with a space, a colon or a dollar sign. Name another." ;;
esac

# What is installed, and where.
files="bin/cuota bin/cuota-bench lib/cuota/libcuota.so lib/cuota/sim/libcuda.so.1 lib/cuota/sim/libnvidia-ml.so.1 include/cuota.h"
folders="lib/cuota/sim lib/cuota"

# Where the file $1 of the list comes from.
source_of() {
    if [ -e "$here/lib/cuota/libcuota.so" ]; then
        echo "$here/$1"
        return
    fi
    built=${CARGO_TARGET_DIR:-$here/../target}/release
    case $1 in
        bin/*) echo "$built/${1#bin/}" ;;
        lib/cuota/libcuota.so) echo "$built/libcuota.so" ;;
        lib/cuota/sim/libcuda.so.1) echo "$built/libcuota_sim_cuda.so" ;;
        lib/cuota/sim/libnvidia-ml.so.1) echo "$built/libcuota_sim_nvml.so" ;;
        include/*) echo "$here/../$1" ;;
    esac
}

# A library that this machine cannot load must never get into a preload list: each program would complain when it starts.
try_library() {
    complaint=$(LD_PRELOAD=$1 /bin/true 2>&1) || fail "a program does not start with $1: $complaint"
    [ -z "$complaint" ] || fail "this machine cannot load $1: $complaint
cuota needs a 64-bit glibc 2.17 or newer; musl is not covered."
}

install_all() {
    for file in $files; do
        from=$(source_of "$file")
        [ -e "$from" ] || fail "$from is not there. In the repository build it first:
    cargo build --release -p cuota-shim
    cargo build --release -p cuota -p cuota-bench -p cuota-sim-cuda -p cuota-sim-nvml"
    done
    try_library "$(source_of lib/cuota/libcuota.so)"
    for file in $files; do
        to=$prefix/$file
        mkdir -p "${to%/*}" || fail "cannot make ${to%/*}. Run it as root, or choose a folder of your own with --prefix."
        # Our own folders, also those that an earlier installation has left closed.
        case $file in lib/*) chmod go+rx "${to%/*}" "$prefix/lib/cuota" 2>/dev/null || fail "cannot open ${to%/*} to every user. Run it as root." ;; esac
        draft=$to.new.$$
        mode=755
        case $file in include/*) mode=644 ;; esac
        # Written beside it and renamed: who opens it finds the old one or the new one, whole.
        { cp "$(source_of "$file")" "$draft" && chmod $mode "$draft" && mv -f "$draft" "$to"; } || {
            rm -f "$draft"
            fail "cannot write $to. Run it as root, or choose a folder of your own with --prefix."
        }
    done
    echo "installed below ${prefix:-/}: $("$prefix/bin/cuota" --version)"
}

# What gives the library to others, by its path as $1/lib/cuota says it, and would go on without it.
refuse_if_named() {
    # While something loads the library by this path, every program there would complain when it starts.
    if grep -qs -F "$1/lib/cuota/libcuota.so" /etc/ld.so.preload; then
        fail "/etc/ld.so.preload loads $1/lib/cuota/libcuota.so into every program. First: $prefix/bin/cuota inject --preload --remove"
    fi
    for spec in /etc/cdi/cuota-tenant-*.json /run/cdi/cuota-tenant-*.json; do
        if grep -qs -F "\"$1/lib/cuota\"" "$spec"; then
            tenant=${spec##*/cuota-tenant-}
            fail "$spec gives the library to containers. First: $prefix/bin/cuota inject --cdi --folder ${spec%/*} --tenant ${tenant%.json} --remove"
        fi
    done
    for hook in /usr/share/containers/oci/hooks.d/cuota.json /etc/containers/oci/hooks.d/cuota.json; do
        if grep -qs -F "\"$1/lib/cuota/libcuota.so\"" "$hook"; then
            fail "$hook gives the library to containers. First: $prefix/bin/cuota inject --hook --folder ${hook%/*} --remove"
        fi
    done
}

# Running containers have the folder mounted, however they were set up: without it their later programs run without a limit.
refuse_if_mounted() {
    for seen in /proc/[0-9]*/root/dev/shm/cuota/lib; do
        process=${seen#/proc/}
        # Only where it is a mount: anybody can put a link there, and so keep the library for good.
        if [ "$seen" -ef "$prefix/lib/cuota" ] && grep -qs ' /dev/shm/cuota/lib ' "/proc/${process%%/*}/mountinfo"; then
            fail "the container of process ${process%%/*} has $prefix/lib/cuota mounted, and would run without a limit. Stop it first."
        fi
    done
}

remove_all() {
    refuse_if_named "$prefix"
    # The command writes real paths.
    if real=$(CDPATH='' cd -P -- "$prefix/lib/cuota" 2>/dev/null && pwd -P); then refuse_if_named "${real%/lib/cuota}"; fi
    refuse_if_mounted
    removed=
    for file in $files; do
        [ ! -e "$prefix/$file" ] || { rm "$prefix/$file" && removed=1; } || fail "cannot remove $prefix/$file. Run it as root."
    done
    # What one that was killed has left half written.
    for file in $files; do rm -f "$prefix/$file".new.[0-9]*; done
    for folder in $folders; do
        rmdir "$prefix/$folder" 2>/dev/null || true
    done
    if [ -n "$removed" ]; then echo "removed from ${prefix:-/}"; else echo "nothing of cuota is below ${prefix:-/}"; fi
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
if [ -n "$remove" ]; then remove_all; else install_all; fi
