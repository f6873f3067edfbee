#!/bin/sh
# Gives the root file system on LVM what is free behind the last partition of its disk. Written by
# kiln for guests without cloud-init, after the steps of the OpenStack documentation.
set -eu

root=$(findmnt -n -o SOURCE /)
group=$(lvs --noheadings -o vg_name "$root" | tr -d ' ')
volume=$(pvs --noheadings -o pv_name -S "vg_name=$group" | head -n 1 | tr -d ' ')
disk=/dev/$(lsblk -n -d -o PKNAME "$volume")

for program in parted pvcreate vgextend lvextend; do
    if ! command -v "$program" >/dev/null; then
        echo "kiln: \`$program\` is missing, so that the root stays as small as it is" >&2
        exit 1
    fi
done
# GPT's second header may be where the disk ended when it was smaller.
if command -v sgdisk >/dev/null; then
    sgdisk -e "$disk" >/dev/null 2>&1 || true
fi
# Apart from the pipe, so that what fails here ends the script.
table=$(parted -m -s "$disk" unit MiB print free)
free=$(printf '%s\n' "$table" | grep ':free;$' | tail -n 1)
start=$(echo "$free" | cut -d : -f 2 | tr -d MiB)
size=$(echo "$free" | cut -d : -f 4 | tr -d MiB)
if [ -z "$size" ] || [ "${size%.*}" -lt 64 ]; then
    echo "kiln: nothing is free behind the last partition of $disk"
    exit 0
fi
before=$(lsblk -n -r -o NAME "$disk")
parted -s "$disk" mkpart primary "$((${start%.*} + 1))MiB" 100%
partprobe "$disk" || true
udevadm settle || true
after=$(lsblk -n -r -o NAME "$disk")
for name in $after; do
    case " $(echo $before) " in
        *" $name "*) ;;
        *) new=/dev/$name ;;
    esac
done
if [ -z "${new:-}" ]; then
    echo "kiln: the new partition of $disk has not come up" >&2
    exit 1
fi
pvcreate -y "$new"
vgextend "$group" "$new"
lvextend -l +100%FREE "$root" "$new"
case $(findmnt -n -o FSTYPE /) in
    xfs) xfs_growfs / ;;
    *) resize2fs "$root" ;;
esac
