#!/bin/sh
# Runs the scripts of firstboot.d once each, in the order of their numbers. Put in by kiln.
#
# A script is moved to firstboot-failed.d before it starts and removed when it has ended with 0. So
# one that failed, or that a reboot cut off, stays there and never runs again by itself.
# The first argument, empty at boot, is a directory to use instead of /.
set -u
top=${1-}
waiting=$top/usr/lib/kiln/firstboot.d
failed=$top/usr/lib/kiln/firstboot-failed.d
log=$top/var/log/kiln-firstboot.log

mkdir -p "$failed" "${log%/*}" || exit 1
(umask 077 && : >>"$log")
say() {
    echo "kiln-firstboot: $*"
    echo "kiln-firstboot: $*" >>"$log"
}

worst=0
for script in "$waiting"/[0-9]*; do
    [ -f "$script" ] || continue
    name=${script##*/}
    mv "$script" "$failed/$name" || { worst=1; continue; }
    script=$failed/$name
    before=$(wc -c <"$log" 2>/dev/null || echo 0)
    say "$name starts"
    # Output goes to a file and not through a pipe: a daemon that a script leaves behind would hold
    # the pipe open, and the boot would wait for it.
    first=$(head -c 4 "$script" | tr -d '\0')
    case $first in
        '#!'* | ?ELF) (cd "${top:-/}" && exec "$script") >>"$log" 2>&1 </dev/null ;;
        *) (cd "${top:-/}" && exec /bin/sh -eu "$script") >>"$log" 2>&1 </dev/null ;;
    esac
    code=$?
    tail -c "+$((before + 1))" "$log" | sed 1d
    if [ "$code" -eq 0 ]; then
        rm -f "$script"
        say "$name is done"
    else
        worst=1
        say "$name failed with exit code $code; it is kept as $script"
    fi
done
exit "$worst"
