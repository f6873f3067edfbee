//! The words of a profile.

use super::{Argument, Kind, Property, STEPS, Word, any, once, property, some};

/// The severities, in the order of [`crate::recipe::Severity::ALL`].
const SEVERITIES: &[&str] = &["error", "warning", "advice"];
const ALL: &[Property] = &[
    property("name", Kind::ProfileName, "the requirement's name; its word by default"),
    property("severity", Kind::Choice(SEVERITIES), "how bad it is that it is not met"),
];

/// The word for what is dropped of the profile that this one extends.
pub(in crate::lower) const WITHOUT: &str = "without";
/// The word for the steps of a requirement.
pub(in crate::lower) const REMEDY: &str = "remedy";

const REMEDIES: &[Word] = &[Word {
    keyword: REMEDY,
    form: None,
    arguments: &[],
    properties: &[],
    children: &[STEPS],
    doc: "the steps that a guest needs that does not meet the requirement",
}];

const fn required(
    keyword: &'static str,
    arguments: &'static [Argument],
    doc: &'static str,
) -> Word {
    Word { keyword, form: None, arguments, properties: &[ALL], children: &[REMEDIES], doc }
}

/// The requirements.
pub const REQUIREMENTS: &[Word] = &[
    required("cloud-init", &[], "cloud-init is installed and enabled"),
    required(
        "datasources",
        &[some("source", Kind::Package).like("\"OpenStack\"")],
        "cloud-init looks for these data sources",
    ),
    required("default-user", &[any("user", Kind::User)], "cloud-init has a default user"),
    required("root-login", &[], "root has no password, and gets no keys"),
    required("password-login", &[], "sshd takes no passwords"),
    required("partition-table", &[], "the partition table fits the disk"),
    required("root-fills", &[], "the root file system fills its partition"),
    required("root-last", &[], "the root partition is the last one"),
    required("one-partition", &[], "there is one ext3 or ext4 partition and no other"),
    required("growth", &[], "the root file system grows at boot"),
    required("persistent-net", &[], "udev's rules for names of interfaces are empty"),
    required("net-generator", &[], "nothing writes such rules"),
    required("hardware-addresses", &[], "no configuration names a hardware address"),
    required("ssh-server", &[], "an SSH server is installed and enabled"),
    Word {
        keyword: "ssh-key",
        form: None,
        arguments: &[],
        properties: &[
            ALL,
            &[property(
                "by",
                Kind::Choice(&["cloud-init", "script"]),
                "what puts it there; cloud-init by default",
            )],
        ],
        children: &[REMEDIES],
        doc: "the key of whoever starts an instance gets in",
    },
    required("firewall", &[], "no firewall is enabled"),
    required(
        "console",
        &[any("device", Kind::Package).like("\"ttyS0\"")],
        "the kernel writes to this console, whichever entry is booted",
    ),
    required("boot-entries", &[], "every boot entry says what the defaults say"),
    required("xen-kernel", &[], "the kernel can be a paravirtualized guest of Xen"),
    required("auto-disk-config", &[], "Glance is told that the disk may be resized"),
    required("machine-id", &[], "no machine id is in the image"),
    required("host-keys", &[], "no SSH host keys are in the image, and something makes new ones"),
    required("leftovers", &[], "nothing of one machine, or of its making, is left"),
    required("package", &[once("name", Kind::Package)], "a package is installed"),
    required("no-package", &[once("name", Kind::Package)], "a package is not installed"),
    Word {
        keyword: "file",
        form: None,
        arguments: &[once("path", Kind::GuestFile)],
        properties: &[ALL, &[property("contains", Kind::Line, "a text that a line of it holds")]],
        children: &[REMEDIES],
        doc: "a file is there",
    },
    required("no-file", &[once("pattern", Kind::Pattern)], "nothing matches"),
    required("unit", &[once("name", Kind::Package).like("\"nginx.service\"")], "a unit is enabled"),
    required(
        "no-unit",
        &[once("name", Kind::Package).like("\"nginx.service\"")],
        "a unit is not enabled",
    ),
    required(
        "kernel-argument",
        &[once("argument", Kind::Line).like("\"net.ifnames=0\"")],
        "every boot entry and the defaults have this argument",
    ),
];

/// The profile itself.
pub(super) const PROFILE: Word = Word {
    keyword: "profile",
    form: None,
    arguments: &[once("name", Kind::ProfileName)],
    properties: &[&[property(
        "extends",
        Kind::ProfileName,
        "the profile whose requirements it takes over",
    )]],
    children: &[
        REQUIREMENTS,
        &[super::leaf(
            WITHOUT,
            &[some("requirement", Kind::ProfileName)],
            "requirements of the other profile that it does not take over",
        )],
    ],
    doc: "a list of what images must be like",
};
