#!/bin/sh
# The image of our OpenStack project.
IMAGE=myImage.qcow2

virt-builder centos-7.2 --format qcow2 -o "$IMAGE" \
    --install "cloud-init" --selinux-relabel

virt-customize -v -a "$IMAGE" --install "wget,ntp" \
    --write /etc/motd:"Built by hand" --chmod 700:/root \
    --root-password password:secret --selinux-relabel
