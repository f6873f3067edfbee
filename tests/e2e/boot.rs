//! What a build made boots, and its file systems are clean.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::guest_space::{Space, golden_raw, need, partition, run};

/// Emulation on a busy machine is slow; a boot that takes longer than this does not come.
const BOOT: Duration = Duration::from_mins(10);

/// Boots a disk until its serial console shows some texts; gives what the console showed. UEFI
/// starts it where a firmware is given, and a BIOS else.
pub(crate) fn boot(
    disk: &Path,
    format: &str,
    firmware: Option<&Path>,
    wanted: &[&str],
) -> Result<String, String> {
    let console = tempfile::NamedTempFile::new().unwrap();
    let drive = format!("file={},format={format},if=virtio", disk.display());
    let serial = format!("file:{}", console.path().display());
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-snapshot", "-display", "none", "-no-reboot", "-nic", "none"])
        .args(["-drive", &drive, "-serial", &serial])
        .args(firmware.iter().flat_map(|file| {
            let flash = "if=pflash,unit=0,readonly=on,format=raw";
            ["-drive".to_owned(), format!("{flash},file={}", file.display())]
        }))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + BOOT;
    let shown = || String::from_utf8_lossy(&fs::read(console.path()).unwrap()).into_owned();
    let result = loop {
        let text = shown();
        if wanted.iter().all(|wanted| text.contains(wanted)) {
            break Ok(text);
        }
        if let Some(status) = qemu.try_wait().unwrap() {
            break Err(format!("qemu ended with {status}:\n{}", shown()));
        }
        if Instant::now() > deadline {
            break Err(format!("not all of {wanted:?} on the console:\n{text}"));
        }
        std::thread::sleep(Duration::from_millis(250));
    };
    let _ = qemu.kill();
    let _ = qemu.wait();
    result
}

#[test]
fn an_image_boots_to_a_login_prompt() {
    need(&[("qemu-system-x86_64", "qemu-system-x86")]);
    let mut space = Space::new(
        r#"image "boots" {
    base image "golden"
    hostname "fresh-from-kiln"
    write "/etc/cloud/cloud.cfg.d/99-none.cfg" "datasource_list: [ None ]"
    firstboot "first.sh"
    output "qcow2" compress=#true
}
"#,
    );
    space.file("recipes/first.sh", "#!/bin/sh\necho first boot >/dev/console\n");
    space.build_ok(&["boots"]);
    let disk = space.path("out/boots.qcow2");

    run(Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(&disk));
    let raw = space.path("boots.raw");
    run(Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(&disk)
        .arg(&raw));
    assert_clean_file_systems(&raw);

    space.end_turn();
    let started = Instant::now();
    let console =
        boot(&disk, "qcow2", None, &["fresh-from-kiln login:"]).unwrap_or_else(|e| panic!("{e}"));
    println!("login prompt after {:.0?}", started.elapsed());
    assert!(!console.contains("emergency mode"), "{console}");
    assert!(!console.contains("Kernel panic"), "{console}");
}

#[test]
fn a_bootstrapped_disk_is_clean() {
    let _space = Space::new("");
    assert_clean_file_systems(&golden_raw());
}

/// Every file system on the disk, by the judgement of its own checker.
fn assert_clean_file_systems(raw: &Path) {
    let output = run(Command::new("sfdisk").arg("--json").arg(raw));
    let table: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap();
    let mut checked = 0;
    for number in 1..=u32::try_from(partitions.len()).unwrap() {
        let (start, size) = partition(raw, number);
        let node = format!("{}?offset={start}", raw.display());
        let probe = Command::new("blkid")
            .args(["--probe", "--offset", &start.to_string(), "--size", &size.to_string()])
            .args(["--match-tag", "TYPE", "--output", "value"])
            .arg(raw)
            .output()
            .unwrap();
        match String::from_utf8_lossy(&probe.stdout).trim() {
            // The boot loader's own partition.
            "" => {}
            "ext4" => {
                let check = run(Command::new("e2fsck").args(["-f", "-n", &node]));
                let said = String::from_utf8_lossy(&check.stdout).into_owned();
                assert!(!said.contains("recovering journal"), "{said}");
                checked += 1;
            }
            other => panic!("a file system that this test does not know: {other}"),
        }
    }
    assert_eq!(checked, 1);
}
