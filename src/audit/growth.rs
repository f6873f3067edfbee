//! Whether a guest's root partition and its file system grow when its disk is larger than the image.
//!
//! Sources: cloud-init's module reference for `growpart` and `resizefs`; systemd-growfs(8);
//! `linux-rootfs-resize`, which makes kernels and initramfs whose names end in `-mod`.

use super::files::{Look, matching, text};
use super::{Subject, Verdict, cloud, scripts, units};

/// The program that cloud-init makes a partition larger with.
pub(super) const GROWPART: [&str; 2] = ["/usr/bin/growpart", "/usr/sbin/growpart"];
/// Where an initramfs is told to make the root partition larger; file systems it leaves alone.
const INITRAMFS: [&str; 3] = [
    "/usr/share/initramfs-tools/hooks/growroot",
    "/usr/share/initramfs-tools/scripts/local-bottom/growroot",
    "/usr/lib/dracut/modules.d/50growroot/module-setup.sh",
];
/// What `linux-rootfs-resize` makes: they do both.
const RESIZING: [&str; 2] = ["/boot/initrd.img-*-mod", "/boot/initramfs-*-mod"];
/// The script of `CirrOS`, whose initramfs makes the partition larger.
const CIRROS: &str = "resizefs";

pub(super) fn growth(subject: Subject<'_>) -> Look<Verdict> {
    if subject.disk.has_root_on_lvm() {
        return on_lvm(subject);
    }
    for pattern in RESIZING {
        if let Some(path) = matching(subject.root, pattern)?.first() {
            return Ok(Verdict::Pass(format!("the initramfs does it: `{path}`")));
        }
    }
    if subject.root.is_file(cloud::CONFIG_OF_CIRROS) && units::is_linked(subject.root, CIRROS)? {
        return Ok(Verdict::Pass(format!("`{CIRROS}` of CirrOS does it")));
    }
    let partition = match partition(subject)? {
        Ok(seen) => seen,
        Err(lacking) => return Ok(Verdict::Fail(lacking)),
    };
    Ok(match file_system(subject)? {
        Ok(seen) => Verdict::Pass(format!("{partition}, {seen}")),
        Err(lacking) => Verdict::Fail(format!("{partition}, and nothing does the rest: {lacking}")),
    })
}

fn on_lvm(subject: Subject<'_>) -> Look<Verdict> {
    let does =
        |text: &str| ["pvcreate", "vgextend", "lvextend"].iter().all(|word| text.contains(word));
    Ok(match scripts::script(subject, does)? {
        Some(script) if script.started => {
            Verdict::Pass(format!("`{}` gives LVM what is free", script.path))
        }
        Some(script) => Verdict::Fail(format!(
            "`{}` gives LVM what is free, and nothing starts it",
            script.path
        )),
        None => Verdict::Fail("the root is on LVM, and no script makes it larger".to_owned()),
    })
}

/// What makes the partition larger, or what is missing.
fn partition(subject: Subject<'_>) -> Look<Result<String, String>> {
    let root = subject.root;
    if let Some(path) = INITRAMFS.iter().find(|path| root.is_file(path)) {
        return Ok(Ok(format!("the initramfs makes the partition larger (`{path}`)")));
    }
    let Some(growpart) = GROWPART.iter().find(|path| root.is_file(path)) else {
        return Ok(Err("there is no program `growpart`".to_owned()));
    };
    if let Some(lacking) = lacking(subject, "growpart")? {
        return Ok(Err(format!("`{growpart}` is there, and {lacking}")));
    }
    let config = cloud::config(subject)?;
    let mode = config.get("growpart").and_then(|grow| grow.get("mode"));
    if mode.is_some_and(|mode| cloud::is_false(mode) || mode.as_str() == Some("off")) {
        return Ok(Err("cloud-init has `growpart: {mode: off}`".to_owned()));
    }
    Ok(Ok(format!("cloud-init, with `{growpart}`")))
}

/// What makes the file system larger, or what is missing.
fn file_system(subject: Subject<'_>) -> Look<Result<String, String>> {
    let fstab = text(subject.root, "/etc/fstab")?.unwrap_or_default();
    let grows = fstab.lines().filter(|line| !line.trim_start().starts_with('#')).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let target = fields.next();
        let options = fields.nth(1).unwrap_or_default();
        target == Some("/") && options.split(',').any(|option| option == "x-systemd.growfs")
    });
    if grows {
        return Ok(Ok("with `x-systemd.growfs` of `/etc/fstab`".to_owned()));
    }
    if let Some(lacking) = lacking(subject, "resizefs")? {
        return Ok(Err(lacking));
    }
    if cloud::config(subject)?.get("resize_rootfs").is_some_and(cloud::is_false) {
        return Ok(Err("cloud-init has `resize_rootfs: false`".to_owned()));
    }
    Ok(Ok("with its module `resizefs`".to_owned()))
}

/// Why a module of cloud-init does not run; `None` where it does.
fn lacking(subject: Subject<'_>, module: &str) -> Look<Option<String>> {
    Ok(match cloud::installed(subject)? {
        Verdict::Pass(_) if cloud::has_module(subject, module)? => None,
        Verdict::Pass(_) => Some(format!("cloud-init's module `{module}` is not enabled")),
        other => Some(format!("cloud-init does not run: {}", other.seen())),
    })
}
