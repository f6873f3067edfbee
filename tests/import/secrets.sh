virt-customize -a rhel-9.qcow2 --sm-credentials 'ada:password:hunter2' --sm-register \
  --sm-attach pool:8a85 --install httpd --sm-remove --sm-unregister --install local-tool \
  --root-password password:hunter2 --password ada:password:hunter2
