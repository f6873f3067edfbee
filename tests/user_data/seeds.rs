//! A seed on a device of this host, as cloud-init's own data source finds and reads it.

use std::path::PathBuf;
use std::process::Command;

use kiln::seed::NoCloud;
use serde_json::json;

use super::python;
use super::servers::tool;

/// A loop device, which goes with the value.
struct Loop(PathBuf);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new(tool("losetup")).arg("-d").arg(&self.0).status();
    }
}

#[test]
fn cloud_init_finds_a_seed_by_its_label() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("seed.img");
    let seed = NoCloud {
        user_data: b"#!/bin/sh -ex\ndate\n".to_vec(),
        hostname: Some("web-1".to_owned()),
        keys: vec!["ssh-ed25519 AAAA ann".to_owned(), "ssh-ed25519 BBBB bob".to_owned()],
        network_config: Some(b"version: 2\nethernets:\n  eth0:\n    dhcp4: true\n".to_vec()),
    };
    std::fs::write(&image, seed.disk().unwrap()).unwrap();
    let made =
        Command::new(tool("losetup")).args(["-r", "-f", "--show"]).arg(&image).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let device = Loop(PathBuf::from(String::from_utf8(made.stdout).unwrap().trim()));
    let said: serde_json::Value =
        serde_json::from_str(&python("no_cloud.py", &[&device.0])).unwrap();
    let expected = json!({
        "found": true,
        "dsmode": "net",
        "hostname": "web-1",
        "instance": seed.instance_id(),
        "keys": seed.keys,
        "user_data": "#!/bin/sh -ex\ndate\n",
        "network": {"version": 2, "ethernets": {"eth0": {"dhcp4": true}}},
    });
    assert_eq!(said, expected);
}
