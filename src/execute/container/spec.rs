//! The OCI runtime configuration of a step's container. No I/O happens here.
//!
//! Source: the OCI Runtime Specification 1.0.2, config.md and config-linux.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::Setting;

/// Most processes that a step may have at once: a fork bomb ends here.
const MAX_PROCESSES: i64 = 1024;

/// A directory or file of the host that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the guest; it must exist there.
    pub target: PathBuf,
    /// Whether the program may not write there.
    pub read_only: bool,
}

/// How much of the host's memory each temporary file system of a container may take.
const TMPFS_SIZE: &str = "size=25%";

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Source: linux/sched.h.
const CLONE_NEWUSER: u64 = 0x1000_0000;

/// What packages need to unpack, configure themselves and install a boot loader; nothing that
/// mounts, traces, loads modules, sets the clock or changes the network.
const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// System calls that no package needs and that reach into the kernel or other processes. They fail
/// with EPERM also where a capability would be missing anyway.
const REFUSED_CALLS: &[&str] = &[
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "get_mempolicy",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "name_to_handle_at",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "open_tree_attr",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "set_mempolicy",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "umount",
    "umount2",
    "unshare",
    "userfaultfd",
];

/// The text of `config.json`.
///
/// # Panics
/// Never: the configuration is made here and is of the specification's shape.
pub(super) fn config(
    setting: &Setting<'_>,
    dev: &Path,
    arguments: &[String],
    environment: &BTreeMap<String, String>,
) -> String {
    let mut namespaces = vec!["pid", "mount", "uts", "ipc"];
    if !setting.network {
        namespaces.push("network");
    }
    let namespaces: Vec<_> = namespaces.iter().map(|kind| json!({ "type": kind })).collect();
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": arguments,
            "env": environment,
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
                "inheritable": [],
                "ambient": [],
            },
            "rlimits": [{ "type": "RLIMIT_CORE", "soft": core_limit(), "hard": core_limit() }],
        },
        "root": { "path": setting.root, "readonly": false },
        "hostname": "localhost",
        "mounts": mounts(setting, dev),
        "linux": {
            "namespaces": namespaces,
            "rootfsPropagation": "rprivate",
            "cgroupsPath": format!("/{}", setting.cgroup),
            "resources": {
                "devices": devices(setting),
                "pids": { "limit": MAX_PROCESSES },
                "memory": memory(),
            },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": architectures(),
                "syscalls": [
                    { "names": REFUSED_CALLS, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM },
                    {
                        "names": ["clone"],
                        "action": "SCMP_ACT_ERRNO",
                        "errnoRet": EPERM,
                        "args": [{
                            "index": 0,
                            "value": CLONE_NEWUSER,
                            "valueTwo": CLONE_NEWUSER,
                            "op": "SCMP_CMP_MASKED_EQ",
                        }],
                    },
                    // Its flags lie in memory, where no filter sees them; libraries then use `clone`.
                    { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS },
                ],
            },
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
                "/sys/firmware", "/sys/fs/selinux",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    });
    // Through the specification's own types, so that a slip shows in a test and not in a runtime.
    let spec: Spec = serde_json::from_value(config).expect("the configuration has the right shape");
    serde_json::to_string_pretty(&spec).expect("a specification is plain data")
}

fn mounts(setting: &Setting<'_>, dev: &Path) -> Vec<Value> {
    let tmpfs = |target: &str, mode: &str| {
        json!({
            "destination": target, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", mode, TMPFS_SIZE],
        })
    };
    let mut mounts = vec![
        json!({
            "destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev"],
        }),
        json!({
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        }),
        json!({
            "destination": "/dev", "type": "bind", "source": dev,
            "options": ["bind", "nosuid", "noexec"],
        }),
        json!({
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        }),
        tmpfs("/dev/shm", "mode=1777"),
        tmpfs("/run", "mode=0755"),
        tmpfs("/tmp", "mode=1777"),
        json!({
            "destination": super::RUN_IN_GUEST, "type": "bind", "source": setting.scratch.join("run"),
            "options": ["bind", "nosuid", "nodev"],
        }),
    ];
    for bind in setting.binds {
        let access = if bind.read_only { "ro" } else { "rw" };
        mounts.push(json!({
            "destination": bind.target, "type": "bind", "source": bind.source,
            "options": ["bind", "nosuid", "nodev", access],
        }));
    }
    mounts
}

/// The guest's own disk, the harmless devices, and nothing else.
fn devices(setting: &Setting<'_>) -> Vec<Value> {
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(json!({
            "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm",
        }));
    }
    // Pseudo terminals of the container's own instance.
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    // Packages may make any node; the guest's file systems are mounted so that none can be opened.
    rules.push(json!({ "allow": true, "type": "c", "access": "m" }));
    rules.push(json!({ "allow": true, "type": "b", "access": "m" }));
    for node in setting.nodes {
        let Ok(stat) = rustix::fs::stat(node) else { continue };
        rules.push(json!({
            "allow": true,
            "type": "b",
            "major": rustix::fs::major(stat.st_rdev),
            "minor": rustix::fs::minor(stat.st_rdev),
            "access": "rwm",
        }));
    }
    rules
}

/// No core files. With 1 in place of 0 the kernel does not feed a crash handler of the host through
/// a pipe either; a limit of 0 that kiln has itself cannot be raised everywhere.
///
/// Source: fs/coredump.c of Linux, where a handler's own limit is 1.
fn core_limit() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Core).maximum.map_or(1, |own| own.min(1))
}

/// Three quarters of the host's memory: enough for any package, and the door stays alive.
fn memory() -> Value {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<i64> = total
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse().ok());
    match kib {
        Some(kib) => json!({ "limit": kib * 1024 / 4 * 3 }),
        None => json!({}),
    }
}

fn architectures() -> Vec<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "riscv64" => vec!["SCMP_ARCH_RISCV64"],
        "s390x" => vec!["SCMP_ARCH_S390X"],
        "powerpc64" => vec!["SCMP_ARCH_PPC64LE"],
        _ => Vec::new(),
    }
}
