#!/bin/sh
# Makes a guest's root with Debian's SELinux policy in the directory $1, as the package's own
# postinst would. It changes nothing outside of $1 and knows nothing of kiln.
set -eu

root=$1
mkdir -p "$root"
work=$(mktemp -d "$root/package.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

cd "$work"
download() {
    apt-get -q -o APT::Sandbox::User=root download selinux-policy-default >&2
}
# A bare machine has no lists of packages yet.
download || { apt-get -q update >&2 && download; }
cd - >/dev/null
dpkg-deb -x "$work"/selinux-policy-default_*.deb "$root"
mkdir -p "$root/var/lib/selinux" "$root/usr/sbin"
: > "$root/usr/sbin/load_policy"
printf 'SELINUX=permissive\nSELINUXTYPE=default\n' > "$root/etc/selinux/config"
cp /etc/selinux/semanage.conf "$root/etc/selinux/"

modules=$root/usr/share/selinux/default
set --
while read -r module; do
    set -- "$@" "-i$modules/$module.pp.bz2"
done < "$modules/.modules"
semodule -p "$root" -X 100 -n -s default "$@" >&2
