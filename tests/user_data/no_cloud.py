"""no_cloud.py DEVICE: what cloud-init's own data source reads from a seed that lies on a device, as JSON.

It finds the device by its label, as at a boot; where other seeds are about, only this one counts. The
kernel of a host that tests need not know FAT, so mtools read the files in place of a mount."""

import json
import logging
import subprocess
import sys
import tempfile

from cloudinit import distros, helpers, util
from cloudinit.sources.DataSourceNoCloud import DataSourceNoCloud

logging.disable(logging.CRITICAL)
device = sys.argv[1]
find = util.find_devs_with
util.find_devs_with = lambda *args, **kwargs: [one for one in find(*args, **kwargs) if one == device]


def copied(device, callback, data):
    with tempfile.TemporaryDirectory() as at:
        subprocess.run(["mcopy", "-s", "-n", "-i", device, "::*", at], check=True)
        return callback(at, data)


util.mount_cb = copied
scratch = tempfile.mkdtemp()
paths = helpers.Paths({"cloud_dir": scratch, "run_dir": scratch}, None)
distro = distros.fetch("debian")("debian", {}, paths)
source = DataSourceNoCloud({}, distro, paths)
# Not what a hypervisor would say of the machine that runs this.
source._get_data.__globals__["dmi"].read_dmi_data = lambda key: None
found = source._get_data()
json.dump(
    {
        "found": found,
        "dsmode": source.dsmode,
        "hostname": source.get_hostname().hostname if found else None,
        "instance": source.get_instance_id() if found else None,
        "keys": source.get_public_ssh_keys() if found else None,
        "user_data": (source.userdata_raw or b"").decode() if found else None,
        "network": source.network_config if found else None,
    },
    sys.stdout,
)
