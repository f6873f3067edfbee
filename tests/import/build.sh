#!/bin/bash
# Builds the web image.
set -euo pipefail

NAME=web
IMG="$NAME.qcow2"
PACKAGES=(nginx curl)
TODAY=$(date +%F)

virt-builder fedora-40 --arch x86_64 --size 10G \
    --format qcow2 -o "$IMG" \
    --root-password locked \
    --install "$(IFS=,; echo "${PACKAGES[*]}")"

install_tools() {
    virt-customize -a "$IMG" --install vim
}

if [ "$1" = prod ]; then
    virt-customize -a "$IMG" --hostname "$NAME-prod"
fi
install_tools

virt-customize -a $IMG --run setup.py --run setup.sh --write "/etc/built:$TODAY" \
    --run-command 'systemctl enable nginx
systemctl disable firewalld' --upload site/index.html:/usr/share/nginx/html/
guestfish -a "$IMG" -i rm /etc/motd
qemu-img resize "$IMG" 20G
sudo virt-sysprep -a "$IMG" --operations defaults,-ssh-userdir,user-account --keep-user-accounts admin
qemu-img convert -c -O qcow2 "$IMG" web-final.qcow2
scp web-final.qcow2 images.example:
