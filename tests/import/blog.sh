virt-builder centos-7.2 --format qcow2 --install "cloud-init" --selinux-relabel
virt-customize  -v -a myImage --install "wget,ntp" --selinux-relabel
