variable "version" {
  default = "12"
}

locals {
  image = "debian-${var.version}"
}

source "qemu" "web" {
  iso_url      = "https://images.example/${local.image}.qcow2"
  iso_checksum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  disk_image   = true
  disk_size    = "20G"
  format       = "qcow2"
  ssh_username = "debian"
  vm_name      = "web-${var.version}.qcow2"
}

build {
  sources = ["source.qemu.web"]

  provisioner "shell" {
    environment_vars = ["STAGE=prod", "GREETING=it's on"]
    inline           = ["apt-get update", "apt-get install -y nginx"]
  }
  provisioner "file" {
    source      = "site/index.html"
    destination = "/var/www/html/index.html"
  }
  provisioner "shell" {
    execute_command = "{{ .Path }}"
    scripts         = ["scripts/a.sh", "/opt/b.sh"]
  }
  provisioner "ansible" {
    playbook_file = "site.yml"
  }
  post-processor "compress" {}
}
