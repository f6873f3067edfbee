#!/bin/sh
export DIB_RELEASE=noble
export DIB_DISTRIBUTION_MIRROR=http://mirror.example/ubuntu
export DIB_DEV_USER_PASSWORD=hunter2
disk-image-create -a amd64 -o out/node -t qcow2 --image-size 8 -p vim,tmux ubuntu vm devuser selinux-permissive
