//! A real Debian that is broken in each of the ways that a profile is about is found out, repaired,
//! and good again.

use std::process::Command;

use serde_json::Value;

use crate::guest_space::{Mounted, Space, partition, run};

/// What every image here must meet, all of it as errors.
const STRICT: &str = r#"profile "strict" extends="openstack" {
    root-login
    firewall
    password-login
    leftovers
    default-user "debian"
}
"#;
/// A Debian that does. The golden one takes passwords, and its first boot would start nftables.
const SOUND: &str = r#"image "sound" {
    base image "golden"
    write "/etc/ssh/sshd_config.d/00-no.conf" "PasswordAuthentication no"
    mkdir "/etc/systemd/system-preset"
    write "/etc/systemd/system-preset/10-none.preset" "disable nftables.service"
}
"#;

/// One way to break it: its name, the steps, and the requirements that are not met then.
struct Fault {
    name: &'static str,
    steps: &'static str,
    failed: &'static [&'static str],
}

const FAULTS: [Fault; 12] = [
    Fault {
        name: "switched-off",
        steps: r#"write "/etc/cloud/cloud-init.disabled" """#,
        failed: &["cloud-init", "ssh-key", "growth", "host-keys"],
    },
    Fault {
        name: "sources",
        steps: r#"write "/etc/cloud/cloud.cfg.d/50.cfg" "datasource_list: [ None ]""#,
        failed: &["datasources"],
    },
    Fault {
        name: "no-user",
        steps: r#"write "/etc/cloud/cloud.cfg.d/50.cfg" "users: [ other ]""#,
        failed: &["default-user"],
    },
    Fault { name: "growth", steps: r#"uninstall "cloud-guest-utils""#, failed: &["growth"] },
    Fault {
        name: "root",
        steps: r#"run-command "usermod -p '$6$x$y' root""#,
        failed: &["root-login"],
    },
    Fault {
        name: "passwords",
        steps: r#"append-line "/etc/ssh/sshd_config.d/00-no.conf" "KbdInteractiveAuthentication yes""#,
        failed: &["password-login"],
    },
    Fault {
        name: "no-ssh",
        steps: r#"run-command "systemctl disable ssh.service""#,
        failed: &["ssh-server"],
    },
    Fault {
        name: "firewall",
        steps: r##"write "/etc/systemd/system/firewalld.service" #"""
        [Service]
        ExecStart=/bin/true
        [Install]
        WantedBy=multi-user.target
        """#
    run-command "systemctl enable firewalld.service""##,
        failed: &["firewall"],
    },
    Fault {
        name: "no-console",
        steps: r#"run-command "sed -i 's/console=ttyS0[^ \"]*//g' /etc/default/grub; rm -f /etc/default/grub.d/*.cfg; update-grub""#,
        failed: &["console"],
    },
    Fault {
        name: "by-hand",
        steps: r#"mkdir "/etc/default/grub.d"
    write "/etc/default/grub.d/90.cfg" "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX net.ifnames=0\"""#,
        failed: &["boot-entries"],
    },
    Fault {
        name: "hardware",
        steps: r##"mkdir "/etc/netplan"
    write "/etc/netplan/50-cloud-init.yaml" #"""
        network:
          ethernets:
            a:
              match:
                macaddress: "00:11:22:33:44:55"
              set-name: a
        """#"##,
        failed: &["hardware-addresses"],
    },
    Fault {
        name: "masked",
        steps: r#"run-command "systemctl mask cloud-final.service""#,
        failed: &["cloud-init", "ssh-key", "growth"],
    },
];

/// The names of the requirements that an image does not meet, and the exit code.
fn failures(space: &Space, what: &str, profile: &str) -> (Vec<String>, Option<i32>) {
    let arguments = ["check-image", what, "--profile", profile, "--json"];
    let output = space.command(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    let findings = answer["findings"].as_array().unwrap();
    let failed = findings.iter().filter(|found| {
        matches!(found["verdict"].as_str(), Some("fail" | "unknown"))
            && found["severity"] == "error"
    });
    (failed.map(|found| found["name"].as_str().unwrap().to_owned()).collect(), output.status.code())
}

/// Writes the recipe that repairs an image.
fn fix(space: &Space, what: &str, profile: &str, recipe: &str) {
    let recipe = space.path(recipe);
    let arguments = ["check-image", what, "--profile", profile, "--fix", recipe.to_str().unwrap()];
    let output = space.command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn each_fault_of_a_debian_is_found_out_and_repaired() {
    let images = FAULTS.iter().map(|Fault { name, steps, failed: _ }| {
        format!("image \"{name}\" {{\n    base image \"sound\"\n    {steps}\n}}\n")
    });
    let recipe = format!("{STRICT}{SOUND}{}", images.collect::<String>());
    let space = Space::new(&recipe);
    let names: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
    space.build_ok(&[&["sound"], names.as_slice()].concat());
    assert_eq!(failures(&space, "sound", "strict"), (Vec::new(), Some(0)));
    for Fault { name, steps: _, failed } in &FAULTS {
        let (found, code) = failures(&space, name, "strict");
        assert!(found == *failed && code == Some(1), "{name}: {found:?}, {code:?}");
        let recipe = format!("recipes/{name}.kdl");
        fix(&space, name, "strict", &recipe);
        // What is looked at are layers: two dozen disks would only take time.
        let text = std::fs::read_to_string(space.path(&recipe)).unwrap();
        space.file(&recipe, text.replace("    output \"qcow2\"\n", ""));
    }
    let fixed: Vec<String> = names.iter().map(|name| format!("{name}-fixed")).collect();
    space.build_ok(&fixed.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &fixed {
        assert_eq!(failures(&space, name, "strict"), (Vec::new(), Some(0)), "{name}");
    }
    space.assert_clean("after all repairs");
}

const FOREIGN: &str = r#"profile "strict" extends="openstack" {
    leftovers
}
image "broken" {
    base image "golden"
    run-command "systemctl disable ssh.service"
    output "raw"
}
"#;

#[test]
fn a_foreign_disk_is_found_out_and_repaired() {
    let space = Space::new(FOREIGN);
    space.build_ok(&["broken"]);
    let built = space.path("out/broken.raw");
    // As a file that kiln need not have made, and as an image of the workspace.
    let (of_file, code) = failures(&space, built.to_str().unwrap(), "openstack");
    assert_eq!((of_file.as_slice(), code), (&["ssh-server".to_owned()][..], Some(1)));
    assert_eq!(failures(&space, "broken", "openstack"), (of_file, Some(1)));

    // The seal does not let it pass.
    space.recipe(&FOREIGN.replace(
        "    output",
        "    profile \"openstack\"\n    write \"/etc/cloud/cloud-init.disabled\" \"\"\n    output",
    ));
    space.build(&["broken"]).assert_fails(1, &["`/etc/cloud/cloud-init.disabled` switches it off"]);
    space.assert_clean("after a requirement that failed");

    // What a seal would have removed was put back, and made larger its table does not fit any more.
    space.recipe(FOREIGN);
    let disk = space.path("recipes/disk.raw");
    std::fs::rename(&built, &disk).unwrap();
    let (start, size) = partition(&disk, 2);
    let root = Mounted::at(&disk, start, size, false);
    for (path, text) in [
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/udev/rules.d/70-persistent-net.rules", "x\n"),
        ("usr/lib/udev/rules.d/75-persistent-net-generator.rules", "x\n"),
        ("etc/ssh/ssh_host_rsa_key", "x\n"),
        ("builder.log", "x\n"),
    ] {
        std::fs::write(root.join(path), text).unwrap();
    }
    drop(root);
    std::fs::File::options().write(true).open(&disk).unwrap().set_len(4 << 30).unwrap();
    let before = std::fs::metadata(&disk).unwrap().modified().unwrap();
    let disk_text = disk.to_str().unwrap();
    let (found, _) = failures(&space, disk_text, "strict");
    let wanted = [
        "ssh-server",
        "persistent-net",
        "net-generator",
        "partition-table",
        "machine-id",
        "host-keys",
        "leftovers",
    ];
    assert_eq!(found, wanted);
    let fix_path = space.path("recipes/fix.kdl");
    let output = space
        .command(&["check-image", disk_text, "--profile", "strict", "--format", "raw", "--fix"])
        .arg(&fix_path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::metadata(&disk).unwrap().modified().unwrap(), before);
    let recipe = std::fs::read_to_string(fix_path).unwrap();
    assert!(recipe.contains("base file \"disk.raw\" format=\"raw\" size=\"5G\""), "{recipe}");
    space.build_ok(&["disk-fixed"]);
    assert_eq!(failures(&space, "disk-fixed", "strict"), (Vec::new(), Some(0)));
    run(Command::new("qemu-img")
        .args(["check", "-q", "-f", "qcow2"])
        .arg(space.path("out/disk-fixed.qcow2")));
    space.assert_clean("after a repair");
}

#[test]
fn a_disk_without_a_system_cannot_be_looked_at() {
    let space = Space::bare("image \"x\" { base scratch size=\"64M\"; output \"raw\"; }");
    let disk = space.path("data.raw");
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg(&disk));
    let junit = space.path("junit.xml");
    let arguments = ["check-image", disk.to_str().unwrap(), "--junit", junit.to_str().unwrap()];
    let output = space.command(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("kiln::cli::unreadable") && said.contains("Linux root"), "{said}");
    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("failures=\"0\"") && !junit.contains("errors=\"0\""), "{junit}");
    space.assert_clean("after a disk without a system");
}
