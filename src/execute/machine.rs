//! Virtual machines: what one is made of, the command line of QEMU for it, and a session in it.
//!
//! QEMU runs in the keeper's pid namespace, as a user of no rights, on the loop device of a working
//! disk: what the guest writes goes with the disk. Everything that it needs is open before it
//! starts. Which guests are booted, and what is looked for, is not known here.
//!
//! The guest has a network of its own with the addresses of 169.254.0.0/16, so that QEMU itself can
//! answer for the metadata service; kiln starts as that service once for each connection.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Fault, FaultKind};
use crate::boot::{Instance, KEY, Labels, SERVICE_ADDRESS};
use crate::files::{Context, FileError};
use crate::host;
use crate::recipe::{BootFirmware, MetadataSource};

/// Holds the instance for the process that is its metadata service.
pub(super) const INSTANCE_VARIABLE: &str = "KILN_INSTANCE";
/// Where UEFI for a PC lies on Debian, Fedora and openSUSE.
const UEFI: [&str; 4] = [
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/qemu/ovmf-x86_64-code.bin",
];
/// Where the kernel has its machines.
const KVM: &str = "/dev/kvm";
/// How long machines may show no sign of life where another accelerator could be tried.
pub const TRIAL: Duration = Duration::from_secs(30);
/// A kernel that shows itself in that time in emulation does so earlier under KVM.
pub const EMULATED: Duration = Duration::from_mins(1);
/// Most bytes that are taken of what a command in a guest prints.
const MAX_OUTPUT: u64 = 1 << 20;

/// What carries out a machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The host's processor.
    Kvm,
    /// QEMU, some ten times as slow.
    Tcg,
}

impl Accelerator {
    /// Its name.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "emulation",
        }
    }
}

/// A machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// What carries out its instructions.
    pub accelerator: Accelerator,
    /// Bytes of memory.
    pub memory: u64,
    /// Processors.
    pub processors: u32,
    /// What starts it; found from its disk where that is `None`.
    pub firmware: Option<BootFirmware>,
    /// Who it is.
    pub instance: Instance,
    /// The port of the host's loopback interface that leads to its SSH server.
    pub ssh_port: u16,
    /// Whether it reaches what the host reaches, the host's own loopback interface included.
    pub network: bool,
}

/// What a session through SSH came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// No server answered; what was said.
    NoAnswer(String),
    /// A server answered, and refused; what was said.
    Refused(String),
    /// The command ran.
    Ran {
        /// Its exit status; `None` where it did not end in time.
        code: Option<i32>,
        /// What it printed, at most 1 MiB; bytes that are no UTF-8 are replaced.
        output: String,
        /// The last line of what it said beside that, escaped.
        said: String,
    },
}

/// A machine that runs.
pub trait Running: Send {
    /// The other end of its serial console; the end of that is the end of the machine.
    ///
    /// # Errors
    /// Where the host has no descriptor left.
    fn console(&self) -> Result<UnixStream, Fault>;

    /// Runs a command in the guest, logged in as a user with the private key of a file.
    fn session(&mut self, user: &str, key: &Path, command: &str, time: Duration) -> Session;

    /// The keys that its SSH server has shown, with their kinds.
    fn host_keys(&self) -> BTreeSet<String>;

    /// What QEMU has said.
    fn said(&self) -> String;

    /// Ends the machine, and looks at the labels on its disk: which files that were there before
    /// `since` have another one than the policy gives.
    ///
    /// # Errors
    /// Where the disk cannot be mounted any more, or has no policy.
    fn labels(&mut self, since: SystemTime) -> Result<Labels, Fault>;

    /// Ends the machine, leaving nothing on the host.
    ///
    /// # Errors
    /// As [`super::Bench::close`].
    fn close(self: Box<Self>) -> Result<(), Fault>;
}

/// The descriptors that QEMU inherits, by their numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inherited {
    /// The disk, a block device.
    pub(super) disk: i32,
    /// The second disk, a file, where there is one.
    pub(super) seed: Option<i32>,
    /// This very program.
    pub(super) program: i32,
}

/// The program for machines of this host's architecture.
///
/// # Errors
/// Where kiln boots none of those.
pub(super) fn program() -> Result<&'static str, Fault> {
    match host::architecture() {
        "x86_64" => Ok("qemu-system-x86_64"),
        other => {
            let message = format!("kiln boots no machines on {other}");
            Err(Fault::new(FaultKind::Host, "kiln::execute::no_machine", message)
                .with_help("boot the image on a host with x86_64, or leave the test out"))
        }
    }
}

/// The file with UEFI.
pub(super) fn uefi() -> Result<&'static str, Fault> {
    UEFI.into_iter().find(|path| Path::new(path).exists()).ok_or_else(|| {
        let message = "the image starts with UEFI, and this host has none for machines";
        Fault::new(FaultKind::Host, "kiln::execute::no_uefi", message)
            .with_help("install it: Debian's package is `ovmf`, Fedora's `edk2-ovmf`")
    })
}

/// The arguments of QEMU. Source: qemu(1).
pub(super) fn arguments(machine: &Machine, uefi: Option<&str>, with: Inherited) -> Vec<String> {
    let Machine { accelerator, memory, processors, firmware: _, instance, ssh_port, network } =
        machine;
    let mut list: Vec<String> = Vec::new();
    let mut put = |words: &[&str]| list.extend(words.iter().map(|word| (*word).to_owned()));
    put(&["-name", "kiln", "-nodefaults", "-no-user-config", "-machine", "pc"]);
    match accelerator {
        Accelerator::Kvm => put(&["-accel", "kvm", "-cpu", "host"]),
        Accelerator::Tcg => put(&["-accel", "tcg,thread=multi", "-cpu", "max"]),
    }
    put(&["-smp", &processors.to_string(), "-m", &format!("{}M", memory >> 20)]);
    // What is denied to QEMU is denied to what it starts: the service gets a session of its own,
    // which counts as a privilege, and any program of glibc asks on which processors it may run.
    let sandbox = match instance.source {
        MetadataSource::Service => "on,obsolete=deny",
        _ => "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    };
    put(&["-sandbox", sandbox]);
    put(&["-display", "none", "-vga", "std"]);
    put(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    if let Some(path) = uefi {
        put(&["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={path}")]);
    }
    let Inherited { disk, seed, program } = with;
    put(&["-add-fd", &format!("fd={disk},set=1")]);
    let block = "driver=host_device,node-name=disk,filename=/dev/fdset/1,locking=off";
    put(&["-blockdev", block, "-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
    if let Some(seed) = seed {
        put(&["-add-fd", &format!("fd={seed},set=2")]);
        let block = "driver=file,node-name=seed,filename=/dev/fdset/2,locking=off,read-only=on";
        put(&["-blockdev", block, "-device", "virtio-blk-pci,drive=seed"]);
    }
    let mut card = "user,id=net,ipv6=off,net=169.254.0.0/16,host=169.254.0.2,dns=169.254.0.3,\
                    dhcpstart=169.254.32.10"
        .to_owned();
    if !network {
        card.push_str(",restrict=on");
    }
    let _ = write!(card, ",hostfwd=tcp:127.0.0.1:{ssh_port}-:22");
    if instance.source == MetadataSource::Service {
        // Resolved by the child itself, so that no path of the host need be open to it.
        let command = format!("/proc/self/fd/{program} {} metadata", super::launcher::ROLE);
        let _ = write!(card, ",guestfwd=tcp:{SERVICE_ADDRESS}:80-cmd:{command}");
    }
    put(&["-netdev", &card]);
    put(&["-device", &format!("virtio-net-pci,netdev=net,romfile=,mac={}", instance.mac)]);
    put(&["-device", "virtio-rng-pci"]);
    if instance.source != MetadataSource::Nocloud {
        // By this guests know that they are in such a cloud.
        let id = &instance.id;
        let product = "manufacturer=OpenStack Foundation,product=OpenStack Nova";
        put(&["-smbios", &format!("type=1,{product},serial={id},uuid={id}")]);
    }
    list
}

/// A new pair of keys for SSH: the file of the private one, and the line of the public one.
///
/// # Errors
/// Where `ssh-keygen` cannot make it.
pub fn key_pair(directory: &Path) -> Result<(PathBuf, String), Fault> {
    let path = directory.join("key");
    let host = |error: FileError| Fault::of(FaultKind::Host, &error);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", KEY, "-f"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("run", Path::new("ssh-keygen"))
        .map_err(host)?;
    if !made.success() {
        let message = format!("`ssh-keygen` could not make a key: {made}");
        return Err(Fault::new(FaultKind::Host, "kiln::execute::key_pair", message));
    }
    let public = path.with_extension("pub");
    let line = std::fs::read_to_string(&public).context("read", &public).map_err(host)?;
    Ok((path, line.trim().to_owned()))
}

/// The SSH server of a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server<'a> {
    /// Its port on the host's loopback interface.
    pub(super) port: u16,
    /// The file with the keys that it has shown; made with the first.
    pub(super) known: &'a Path,
}

impl Server<'_> {
    /// The keys that it has shown. Source: sshd(8), `SSH_KNOWN_HOSTS FILE FORMAT`.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        let text = std::fs::read_to_string(self.known).unwrap_or_default();
        let key = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            Some(format!("{} {}", words.next()?, words.next()?))
        };
        text.lines().filter_map(key).collect()
    }
}

/// Runs a command through SSH, at a port of the host's loopback interface. Nothing of the user's
/// own settings, keys and agent takes part: the server is the guest's.
pub(super) fn session(
    at: &Server<'_>,
    user: &str,
    key: &Path,
    command: &str,
    time: Duration,
) -> Session {
    let mut known = std::ffi::OsString::from("UserKnownHostsFile=");
    known.push(at.known);
    let options = [
        "BatchMode=yes",
        "ClearAllForwardings=yes",
        "ConnectTimeout=10",
        "ForwardAgent=no",
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "LogLevel=ERROR",
        "PasswordAuthentication=no",
        "PermitLocalCommand=no",
        "ServerAliveInterval=15",
        "StrictHostKeyChecking=no",
        "UpdateHostKeys=no",
        "HashKnownHosts=no",
    ];
    let child = Command::new("ssh")
        .args(["-F", "none", "-T", "-a", "-x", "-p", &at.port.to_string(), "-i"])
        .arg(key)
        .args(options.iter().flat_map(|option| ["-o", option]))
        .arg("-o")
        .arg(known)
        .args(["-l", user, "--", "127.0.0.1", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Session::NoAnswer(format!("`ssh` cannot be run: {error}")),
    };
    let output = collect(child.stdout.take());
    let errors = collect(child.stderr.take());
    let code = wait(&mut child, time);
    let read = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (output, errors) = (read(output), read(errors));
    let said = errors.trim().lines().last().unwrap_or_default().escape_debug().to_string();
    match code {
        // What ssh itself ends with where there was no session.
        Some(Some(255)) if errors.contains("Permission denied") => Session::Refused(said),
        Some(Some(255)) => Session::NoAnswer(said),
        Some(code) => Session::Ran { code, output, said },
        None => Session::Ran { code: None, output, said },
    }
}

/// Reads a stream on a thread of its own: all of it, of which the first part is kept.
fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The exit status of a process; `None` where it had to be killed, as its time was over.
#[expect(clippy::option_option, reason = "a status, or a signal; and a process that did not end")]
fn wait(child: &mut Child, time: Duration) -> Option<Option<i32>> {
    const GLANCE: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + time;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code()),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(GLANCE),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// The group whose members may use KVM; `None` where none may, or only root's.
pub(super) fn kvm_group() -> Option<u32> {
    let meta = std::fs::metadata(KVM).ok()?;
    (meta.gid() != 0 && meta.mode() & 0o060 == 0o060).then(|| meta.gid())
}

/// What is known of this host's KVM: it may be there and run no kernel, as within another machine.
#[derive(Debug, Clone)]
pub struct Kvm {
    /// A file that is there where a kernel was silent under it; it goes with the host's next start.
    note: PathBuf,
}

impl Default for Kvm {
    fn default() -> Self {
        Self { note: PathBuf::from("/run/kiln-kvm-is-silent") }
    }
}

impl Kvm {
    /// What machines are tried with, in this order.
    #[must_use]
    pub fn accelerators(&self) -> Vec<Accelerator> {
        let open = std::fs::OpenOptions::new().read(true).write(true).open(KVM);
        let by_all = std::fs::metadata(KVM).is_ok_and(|meta| meta.mode() & 0o006 == 0o006);
        if open.is_ok() && (by_all || kvm_group().is_some()) && !self.note.exists() {
            vec![Accelerator::Kvm, Accelerator::Tcg]
        } else {
            vec![Accelerator::Tcg]
        }
    }

    /// Notes that a kernel which runs in emulation was silent under KVM.
    pub fn is_silent(&self) {
        // Without the note the next machine tries again.
        let _ = std::fs::write(&self.note, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(source: MetadataSource) -> Machine {
        Machine {
            accelerator: Accelerator::Tcg,
            memory: 1 << 30,
            processors: 2,
            firmware: None,
            instance: Instance {
                id: "d8e02d56-2648-49a3-bf97-6be8f1204f38".to_owned(),
                name: "clone-1".to_owned(),
                keys: Vec::new(),
                user_data: Vec::new(),
                mac: "52:54:00:6b:69:01".to_owned(),
                source,
            },
            ssh_port: 2222,
            network: false,
        }
    }

    #[test]
    fn the_command_line_of_a_machine() {
        let with = Inherited { disk: 7, seed: None, program: 9 };
        let service = arguments(&machine(MetadataSource::Service), None, with);
        insta::assert_snapshot!(service.join("\n"));
        let with = Inherited { seed: Some(8), ..with };
        let mut other = machine(MetadataSource::Nocloud);
        (other.accelerator, other.network) = (Accelerator::Kvm, true);
        let nocloud = arguments(&other, Some("/x/OVMF.fd"), with).join(" ");
        for part in ["-accel kvm", "/dev/fdset/2", "file=/x/OVMF.fd"] {
            assert!(nocloud.contains(part), "{nocloud}");
        }
        for part in ["guestfwd", "restrict", "smbios"] {
            assert!(!nocloud.contains(part), "{nocloud}");
        }
    }

    #[test]
    fn a_process_that_does_not_end_is_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(wait(&mut child, Duration::from_millis(100)), None);
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        assert_eq!(wait(&mut child, Duration::from_mins(1)), Some(Some(3)));
    }

    #[test]
    fn where_nothing_listens_there_is_no_answer() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = tempfile::tempdir().unwrap();
        let (key, line) = key_pair(directory.path()).unwrap();
        assert!(line.starts_with("ssh-ed25519 "), "{line}");
        let known = directory.path().join("known");
        let server = Server { port, known: &known };
        let session = session(&server, "nobody", &key, "true", Duration::from_secs(20));
        assert!(server.keys().is_empty());
        assert!(matches!(session, Session::NoAnswer(_)), "{session:?}");
    }

    #[test]
    fn kvm_that_was_silent_is_not_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let kvm = Kvm { note: directory.path().join("note") };
        kvm.is_silent();
        assert_eq!(kvm.accelerators(), [Accelerator::Tcg]);
    }
}
