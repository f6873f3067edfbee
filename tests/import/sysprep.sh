virt-customize -a golden.qcow2 --ssh-inject admin:string:'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me' --no-logfile
virt-sysprep -a golden.qcow2 --hostname web --script ./clean.sh
virt-customize -a golden.qcow2 --touch /etc/cloud/clean
virt-sysprep -d oldvm --enable machine-id,ssh-hostkeys --install vim
