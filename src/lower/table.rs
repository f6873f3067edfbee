//! The words of a recipe: every node with its arguments, properties and inner nodes.
//!
//! Lowering checks each node against this table, and nothing else says what may be written; what a
//! node then *becomes* is not known here.

pub(super) mod boot;
mod profile;
mod publish;
mod user_data;

pub use super::kind::Kind;
use crate::recipe::{DiskFormat, ScrubItem};
pub use profile::REQUIREMENTS;
pub(super) use profile::{REMEDY, WITHOUT};
pub use publish::PUBLISH;

/// How often an argument may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Once.
    Once,
    /// Once or more; only the last argument of a node.
    Some,
    /// Any number of times; only the last argument of a node.
    Any,
}

/// One argument of a node, by its position.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    /// Its name in the documentation.
    pub name: &'static str,
    /// What it must be.
    pub kind: Kind,
    /// How often it may be written.
    pub times: Times,
    /// How it is written here, where that says more than the kind's own example.
    pub written: Option<&'static str>,
}

impl Argument {
    /// How such an argument is written.
    #[must_use]
    pub fn example(&self) -> &'static str {
        self.written.unwrap_or(self.kind.example())
    }

    const fn like(self, written: &'static str) -> Self {
        Self { written: Some(written), ..self }
    }
}

/// One property of a node.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// What it must be.
    pub kind: Kind,
    /// What it means, in one line.
    pub doc: &'static str,
}

/// One node.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// The node's name.
    pub keyword: &'static str,
    /// Its first argument, where that decides what else may be written (`base file …`).
    pub form: Option<&'static str>,
    /// Its further arguments, in their order.
    pub arguments: &'static [Argument],
    /// Its properties.
    pub properties: &'static [&'static [Property]],
    /// The nodes in its block, as groups.
    pub children: &'static [&'static [Word]],
    /// What it means, in one line.
    pub doc: &'static str,
}

impl Word {
    /// All properties of the node.
    pub fn properties(&self) -> impl Iterator<Item = &'static Property> {
        self.properties.iter().copied().flatten()
    }

    /// All nodes that may stand in the node's block.
    pub fn children(&self) -> impl Iterator<Item = &'static Word> {
        self.children.iter().copied().flatten()
    }

    /// The node as it is written, such as `base "file"`.
    #[must_use]
    pub fn title(&self) -> String {
        match self.form {
            Some(form) => format!("{} {form}", self.keyword),
            None => self.keyword.to_owned(),
        }
    }
}

const fn once(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, times: Times::Once, written: None }
}

const fn some(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, times: Times::Some, written: None }
}

const fn any(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, times: Times::Any, written: None }
}

const fn property(name: &'static str, kind: Kind, doc: &'static str) -> Property {
    Property { name, kind, doc }
}

const fn leaf(keyword: &'static str, arguments: &'static [Argument], doc: &'static str) -> Word {
    Word { keyword, form: None, arguments, properties: &[], children: &[], doc }
}

const fn form(
    keyword: &'static str,
    form: &'static str,
    arguments: &'static [Argument],
    properties: &'static [&'static [Property]],
    children: &'static [&'static [Word]],
    doc: &'static str,
) -> Word {
    Word { keyword, form: Some(form), arguments, properties, children, doc }
}

const fn step(
    keyword: &'static str,
    arguments: &'static [Argument],
    properties: &'static [&'static [Property]],
    doc: &'static str,
) -> Word {
    Word { keyword, form: None, arguments, properties, children: &[AFTER], doc }
}

const fn program(
    keyword: &'static str,
    arguments: &'static [Argument],
    properties: &'static [&'static [Property]],
    doc: &'static str,
) -> Word {
    Word { keyword, form: None, arguments, properties, children: &[AFTER, AIDS], doc }
}

const AFTER: &[Word] =
    &[leaf("after", &[some("step", Kind::StepName)], "steps that must come before this one")];

/// What a step's programs may be given beside the guest.
const AIDS: &[Word] = &[
    Word {
        keyword: "attach",
        form: None,
        arguments: &[once("source", Kind::LocalPath).like("\"files/tools\"")],
        properties: &[&[
            property(
                "at",
                Kind::GuestFile,
                "what of the guest it hides meanwhile; /run/kiln/attached/NAME by default",
            ),
            property("disk", Kind::Flag, "whether it is a disk image; off by default"),
        ]],
        children: &[],
        doc: "a file, directory or disk image that the step can read while it runs",
    },
    leaf(
        "secret",
        &[some("name", Kind::SecretName)],
        "secrets that the step finds as files in /run/kiln/secrets",
    ),
];

const COMMON: &[Property] = &[
    property("name", Kind::StepName, "the step's name, unique in its image"),
    property("after", Kind::StepName, "a step that must come before this one"),
];
const TIMEOUT: Property =
    property("timeout", Kind::Period, "the longest time that the step may take");
const REFRESH: Property =
    property("refresh", Kind::Period, "run again in each such period; needs the network");
const SUBSCRIPTION: Property = property(
    "subscription",
    Kind::Flag,
    "whether the guest is registered with the image's subscription meanwhile; off by default",
);
const ONLINE: &[Property] = &[
    property("network", Kind::Flag, "whether the network may be used; on by default"),
    TIMEOUT,
    REFRESH,
    SUBSCRIPTION,
];
const REPAIRS: &[Property] = &[
    property("network", Kind::Flag, "whether the network may be used; on by default"),
    TIMEOUT,
    REFRESH,
];
const OFFLINE: &[Property] = &[
    property("network", Kind::Flag, "whether the network may be used; off by default"),
    TIMEOUT,
    REFRESH,
    SUBSCRIPTION,
];
const OWNERS: &[Property] = &[
    property("owner", Kind::Owner, "the user; root by default"),
    property("group", Kind::Owner, "the group; root by default"),
];
const ATTRIBUTES: &[Property] = &[
    property("mode", Kind::Mode, "the permission bits"),
    property("owner", Kind::Owner, "the user; root by default"),
    property("group", Kind::Owner, "the group; root by default"),
];

const PATHS: &[Argument] = &[some("path", Kind::GuestFile)];
const PACKAGES: &[Argument] = &[some("package", Kind::Package)];
const PACKED_OWNERS: &[Property] = &[
    property("owner", Kind::Owner, "the user of everything; the archive's numbers by default"),
    property("group", Kind::Owner, "the group of everything; the archive's numbers by default"),
];
const RECOMMENDS: Property =
    property("recommends", Kind::Flag, "install recommended packages too; on by default");

/// The step that stands for those of a file.
pub const COMMANDS: &str = "commands-from-file";

/// The steps.
pub const STEPS: &[Word] = &[
    program("install", PACKAGES, &[COMMON, ONLINE, &[RECOMMENDS]], "install packages"),
    step("uninstall", PACKAGES, &[COMMON, &[TIMEOUT]], "remove packages; never uses the network"),
    program("update", &[], &[COMMON, ONLINE], "update every installed package"),
    program(
        "run",
        &[once("script", Kind::LocalPath).like("\"files/setup.sh\""), any("argument", Kind::Text)],
        &[COMMON, OFFLINE],
        "run a script of the workspace in the guest",
    ),
    program(
        "run-command",
        &[once("script", Kind::Script)],
        &[COMMON, OFFLINE],
        "run a script that is written here in the guest",
    ),
    step(
        "write",
        &[once("path", Kind::GuestFile), once("content", Kind::Content)],
        &[
            COMMON,
            ATTRIBUTES,
            &[property(
                "newline",
                Kind::Flag,
                "add a final newline that is missing; on by default",
            )],
        ],
        "write a file",
    ),
    step(
        "append-line",
        &[once("path", Kind::GuestFile), once("line", Kind::Line).like("\"192.0.2.1 build\"")],
        &[COMMON],
        "add a line to the end of a file",
    ),
    step(
        "copy-in",
        &[
            once("source", Kind::LocalPath).like("\"files/site\""),
            once("directory", Kind::GuestPath),
        ],
        &[COMMON, OWNERS],
        "copy a file or tree of the workspace into a directory",
    ),
    step(
        "upload",
        &[once("source", Kind::LocalPath).like("\"files/motd\""), once("path", Kind::GuestFile)],
        &[COMMON, ATTRIBUTES],
        "copy a file of the workspace to a path",
    ),
    step(
        "mkdir",
        &[once("path", Kind::GuestFile)],
        &[COMMON, ATTRIBUTES],
        "make a directory and its parents",
    ),
    step(
        "delete",
        &[some("pattern", Kind::Pattern)],
        &[COMMON],
        "delete files and trees; nothing that matches is no error",
    ),
    step(
        "move",
        &[once("from", Kind::GuestFile).like("\"/etc/motd.old\""), once("to", Kind::GuestFile)],
        &[COMMON],
        "rename a file or directory",
    ),
    step(
        "link",
        &[once("target", Kind::LinkTarget), some("link", Kind::GuestFile).like("\"/usr/bin/vi\"")],
        &[COMMON],
        "make symbolic links to a target",
    ),
    step(
        "chmod",
        &[once("mode", Kind::Mode), some("path", Kind::GuestPath)],
        &[COMMON],
        "change permission bits",
    ),
    step(
        "chown",
        &[once("owners", Kind::Owners), some("path", Kind::GuestPath)],
        &[COMMON, &[property("recursive", Kind::Flag, "change whole trees; off by default")]],
        "change owners",
    ),
    step("touch", PATHS, &[COMMON], "make files that are missing, and set their times"),
    step("truncate", PATHS, &[COMMON], "empty existing files"),
    step("hostname", &[once("name", Kind::Hostname)], &[COMMON], "set the host name"),
    step("timezone", &[once("zone", Kind::Timezone)], &[COMMON], "set the time zone"),
    step(
        "password",
        &[once("user", Kind::User)],
        &[
            COMMON,
            &[
                property("locked", Kind::Flag, "lock the password and keep its hash"),
                property("disabled", Kind::Flag, "let no password ever match"),
                property("hash", Kind::PasswordHash, "a crypt(5) string"),
                property("plain", Kind::Password, "a password, to be hashed by the guest"),
                property("file", Kind::LocalPath, "a file whose first line is the password"),
                property("secret", Kind::SecretName, "a secret of kiln.kdl, to be hashed"),
                property("random", Kind::Flag, "a random password, shown to whoever builds"),
                property(
                    "crypto",
                    Kind::Choice(&["yescrypt", "sha512", "sha256", "md5"]),
                    "how it is hashed; the guest's own choice by default",
                ),
            ],
        ],
        "set, lock or disable the password of a user",
    ),
    step(
        "ssh-inject",
        &[once("user", Kind::User)],
        &[
            COMMON,
            &[
                property("key", Kind::PublicKey, "a public key"),
                property("file", Kind::LocalPath, "a file with a public key on each line"),
            ],
        ],
        "let holders of an SSH key log in as a user",
    ),
    step(
        "firstboot",
        &[once("script", Kind::LocalPath).like("\"files/grow.sh\"")],
        &[COMMON],
        "run a script once, at the first boot",
    ),
    step(
        "firstboot-command",
        &[once("script", Kind::Script)],
        &[COMMON],
        "run a script that is written here once, at the first boot",
    ),
    step(
        "firstboot-install",
        PACKAGES,
        &[COMMON, &[RECOMMENDS]],
        "install packages at the first boot",
    ),
    step(
        "edit",
        &[
            once("path", Kind::GuestFile).like("\"/etc/ssh/sshd_config\""),
            some("expression", Kind::Expression),
        ],
        &[
            COMMON,
            &[property("required", Kind::Flag, "fail where no line changes; off by default")],
        ],
        "change the lines of a file with expressions",
    ),
    step(
        "copy",
        &[once("from", Kind::GuestFile).like("\"/etc/skel\""), once("to", Kind::GuestFile)],
        &[COMMON],
        "copy a file or tree inside the guest, with all attributes",
    ),
    step(
        COMMANDS,
        &[once("file", Kind::LocalPath).like("\"files/steps.txt\"")],
        &[COMMON],
        "the steps of a file of virt-customize's --commands-from-file",
    ),
    step(
        "tar-in",
        &[
            once("archive", Kind::LocalPath).like("\"files/site.tar.gz\""),
            once("directory", Kind::GuestPath),
        ],
        &[COMMON, PACKED_OWNERS],
        "unpack an archive of the workspace into a directory",
    ),
    step(
        "truncate-recursive",
        &[some("directory", Kind::GuestFile).like("\"/var/log\"")],
        &[COMMON],
        "empty every file below directories",
    ),
    step("scrub-file", PATHS, &[COMMON], "overwrite files, then remove them"),
    step("inject-qemu-ga", &[], &[COMMON, ONLINE], "install the QEMU guest agent, and enable it"),
    step(
        "profile",
        &[once("name", Kind::ProfileName)],
        &[COMMON, REPAIRS],
        "repair what a profile requires, and require it of the sealed image",
    ),
    step(
        "selinux-relabel",
        &[],
        &[COMMON],
        "label every file; the seal always does so last, wherever this is written",
    ),
];

const SIZE: Property =
    property("size", Kind::Size, "what the disk, its last partition and file system grow to");
const FORMAT: Property = property(
    "format",
    Kind::Choice(FORMATS),
    "the disk's format; found by its magic number by default",
);

/// The formats of disks that come in, in the order of [`DiskFormat::ALL`].
pub const FORMATS: &[&str] = &[
    DiskFormat::Raw.keyword(),
    DiskFormat::Qcow2.keyword(),
    DiskFormat::Vmdk.keyword(),
    DiskFormat::Vdi.keyword(),
    DiskFormat::Vhdx.keyword(),
    DiskFormat::Vpc.keyword(),
    DiskFormat::Qed.keyword(),
];

/// How a disk is divided.
const LAYOUT: &[Word] = &[
    leaf(
        "table",
        &[once("kind", Kind::Choice(&["gpt", "mbr"])).like("\"gpt\"")],
        "the kind of partition table; gpt by default",
    ),
    leaf(
        "firmware",
        &[once("kind", Kind::Choice(&["bios", "uefi", "both"])).like("\"uefi\"")],
        "what starts the disk; bios by default",
    ),
    Word {
        keyword: "partition",
        form: None,
        arguments: &[once("place", Kind::Text).like("\"/\"")],
        properties: &[&[
            property("size", Kind::Size, "its size; the rest of the disk by default"),
            property(
                "fs",
                Kind::Choice(&["ext4", "xfs", "btrfs", "vfat"]),
                "its file system; ext4 by default",
            ),
        ]],
        children: &[],
        doc: "a partition: where it is mounted, or swap",
    },
];

/// The kinds of base.
pub const BASES: &[Word] = &[
    form(
        "base",
        "bootstrap",
        &[once("suite", Kind::ArchiveWord).like("\"bookworm\"")],
        &[&[
            property("size", Kind::Size, "size of the disk; 4G by default"),
            property(
                "variant",
                Kind::Choice(&["minbase", "important", "standard"]),
                "which packages to start from; important by default",
            ),
            property("refresh", Kind::Period, "make the base again in each such period"),
        ]],
        &[
            &[
                leaf("package", PACKAGES, "packages to add"),
                leaf("mirror", &[some("url", Kind::Mirror)], "mirrors to use"),
                leaf(
                    "component",
                    &[some("name", Kind::ArchiveWord)],
                    "components; main by default",
                ),
            ],
            LAYOUT,
        ],
        "a bootable disk made from packages of Debian or Ubuntu",
    ),
    form(
        "base",
        "file",
        &[once("disk", Kind::LocalPath).like("\"disk.qcow2\"")],
        &[&[FORMAT, SIZE]],
        &[],
        "a disk image of the workspace",
    ),
    form(
        "base",
        "url",
        &[once("address", Kind::Url)],
        &[&[
            property("sha256", Kind::Sha256, "its SHA-256 checksum; the lock file's by default"),
            property("sha512", Kind::Sha512, "its SHA-512 checksum; the lock file's by default"),
            FORMAT,
            SIZE,
        ]],
        &[],
        "a disk image that is downloaded, perhaps compressed",
    ),
    form(
        "base",
        "template",
        &[once("name", Kind::TemplateName).like("\"centos-7.2\"")],
        &[&[property("arch", Kind::ArchiveWord, "its architecture; this host's by default"), SIZE]],
        &[],
        "a template of virt-builder's sources",
    ),
    form(
        "base",
        "catalog",
        &[once("name", Kind::TemplateName)],
        &[&[SIZE]],
        &[],
        "a cloud image of a distribution, from the catalogue",
    ),
    form(
        "base",
        "scratch",
        &[],
        &[&[property("size", Kind::Size, "size of the disk; 4G by default")]],
        &[LAYOUT],
        "an empty disk with partitions and file systems",
    ),
    form(
        "base",
        "image",
        &[once("image", Kind::ImageName)],
        &[&[SIZE]],
        &[],
        "another image of the workspace, as it is before its seal",
    ),
];

/// What the seal scrubs, by keyword, in the order of [`ScrubItem::ALL`].
pub const SCRUB_ITEMS: &[&str] = &[
    ScrubItem::AbrtData.keyword(),
    ScrubItem::BackupFiles.keyword(),
    ScrubItem::BashHistory.keyword(),
    ScrubItem::BlkidTab.keyword(),
    ScrubItem::BuildLeftovers.keyword(),
    ScrubItem::CaCertificates.keyword(),
    ScrubItem::CrashData.keyword(),
    ScrubItem::CronSpool.keyword(),
    ScrubItem::DhcpClientState.keyword(),
    ScrubItem::DhcpServerState.keyword(),
    ScrubItem::DovecotData.keyword(),
    ScrubItem::FirewallRules.keyword(),
    ScrubItem::FlagReconfiguration.keyword(),
    ScrubItem::FsUuids.keyword(),
    ScrubItem::IpaClient.keyword(),
    ScrubItem::KerberosData.keyword(),
    ScrubItem::KerberosHostkeytab.keyword(),
    ScrubItem::Logfiles.keyword(),
    ScrubItem::LvmSystemDevices.keyword(),
    ScrubItem::LvmUuids.keyword(),
    ScrubItem::MachineId.keyword(),
    ScrubItem::MailSpool.keyword(),
    ScrubItem::NetHostname.keyword(),
    ScrubItem::NetHwaddr.keyword(),
    ScrubItem::NetNmconn.keyword(),
    ScrubItem::PackageManagerCache.keyword(),
    ScrubItem::PacctLog.keyword(),
    ScrubItem::PamData.keyword(),
    ScrubItem::PasswdBackups.keyword(),
    ScrubItem::PuppetDataLog.keyword(),
    ScrubItem::RandomSeed.keyword(),
    ScrubItem::RhSubscriptionManager.keyword(),
    ScrubItem::RhnSystemid.keyword(),
    ScrubItem::RpmDb.keyword(),
    ScrubItem::SambaDbLog.keyword(),
    ScrubItem::SmoltUuid.keyword(),
    ScrubItem::SshHostkeys.keyword(),
    ScrubItem::SshUserdir.keyword(),
    ScrubItem::SssdDbLog.keyword(),
    ScrubItem::TmpFiles.keyword(),
    ScrubItem::UdevPersistentNet.keyword(),
    ScrubItem::UserAccount.keyword(),
    ScrubItem::Utmp.keyword(),
    ScrubItem::YumUuid.keyword(),
];

const OUTPUT_PATH: Property = property(
    "path",
    Kind::WorkspacePath,
    "where the file goes, from the workspace root; out/IMAGE.FORMAT by default",
);

/// The outputs.
pub const OUTPUTS: &[Word] = &[
    form(
        "output",
        "qcow2",
        &[],
        &[&[
            OUTPUT_PATH,
            property("compress", Kind::Flag, "whether clusters are compressed; off by default"),
        ]],
        &[],
        "a qcow2 file",
    ),
    form("output", "raw", &[], &[&[OUTPUT_PATH]], &[], "a raw disk, as a sparse file"),
];

/// What else may stand in an image.
const SCRUB: &[Word] = &[Word {
    keyword: "scrub",
    form: None,
    arguments: &[],
    properties: &[],
    children: &[&[
        leaf("keep", &[some("item", Kind::Choice(SCRUB_ITEMS))], "what the seal leaves as it is"),
        leaf(
            "also",
            &[some("item", Kind::Choice(SCRUB_ITEMS))],
            "what the seal scrubs beside its default set",
        ),
        leaf(
            "keep-user",
            &[some("user", Kind::User)],
            "accounts that the item user-account leaves",
        ),
    ]],
    doc: "what the seal removes",
}];

const SUBSCRIPTIONS: &[Word] = &[Word {
    keyword: "subscription",
    form: None,
    arguments: &[],
    properties: &[&[
        property("organization", Kind::Line, "the organization of an activation key"),
        property("activation-key", Kind::SecretName, "the secret that holds an activation key"),
        property("user", Kind::Line, "a user, in place of an organization"),
        property("password", Kind::SecretName, "the secret that holds the user's password"),
        property("server", Kind::Line, "the server; Red Hat's own by default"),
    ]],
    children: &[&[leaf("pool", &[some("id", Kind::Line)], "pools to attach; auto is one")]],
    doc: "how the guest is registered while steps with subscription=#true run",
}];

/// What may stand at the top of a recipe.
pub const RECIPE: &[Word] = &[
    Word {
        keyword: "image",
        form: None,
        arguments: &[once("name", Kind::ImageName)],
        properties: &[],
        children: &[BASES, STEPS, SCRUB, SUBSCRIPTIONS, boot::TESTS, OUTPUTS, PUBLISH],
        doc: "an image: a base, steps, and outputs",
    },
    profile::PROFILE,
    user_data::USER_DATA,
    user_data::TEMPLATE,
];

/// The word for a key whose signatures count.
pub const TRUST: &str = "trust";
/// Nova's word for the age at which it removes a base that nothing uses.
pub const UNUSED_ORIGINAL: &str = "remove-unused-original-minimum-age";
/// The same for a copy of it that was made larger.
pub const UNUSED_RESIZED: &str = "remove-unused-resized-minimum-age";

const RETENTION: &[Word] = &[
    leaf("size", &[once("size", Kind::Size)], "the largest size of all objects together"),
    leaf("age", &[once("period", Kind::Period)], "the longest time since the last use"),
    leaf("free", &[once("size", Kind::Size)], "what stays free on the store's file system"),
    leaf(
        "keep-builds",
        &[once("count", Kind::Count)],
        "how many last builds of each image stay, whatever else says; 1 by default",
    ),
    leaf(
        UNUSED_ORIGINAL,
        &[once("period", Kind::Period)],
        "the longest time since the last use of a base that nothing kept stands on",
    ),
    leaf(
        UNUSED_RESIZED,
        &[once("period", Kind::Period).like("\"1h\"")],
        "the same for a base that was made larger",
    ),
];

/// What may stand in `kiln.kdl`.
pub const SETTINGS: &[Word] = &[
    leaf(
        "namespace",
        &[once("name", Kind::Namespace)],
        "whose results these are: those of one namespace never serve another; main by default",
    ),
    Word {
        keyword: "remote",
        form: None,
        arguments: &[once("name", Kind::RemoteName), once("address", Kind::Address)],
        properties: &[&[
            property("endpoint", Kind::Url, "the server of an object store"),
            property("region", Kind::Line, "the region of an object store"),
            property("read-only", Kind::Flag, "whether nothing is written to it; off by default"),
            property("impure", Kind::Flag, "whether impure results are shared; off by default"),
        ]],
        children: &[],
        doc: "where results of others are found, and one's own go",
    },
    Word {
        keyword: TRUST,
        form: None,
        arguments: &[once("key", Kind::SigningKey)],
        properties: &[&[
            property("name", Kind::Line, "whose key it is"),
            property("revoked", Kind::Flag, "whether it counts no more; off by default"),
        ]],
        children: &[],
        doc: "a public key whose signatures count",
    },
    Word {
        keyword: "cache",
        form: None,
        arguments: &[],
        properties: &[],
        children: &[RETENTION],
        doc: "what garbage collection keeps",
    },
    leaf("store", &[once("path", Kind::HostPath)], "where the store is, from the workspace root"),
    leaf("jobs", &[once("count", Kind::Count)], "how many images are built at a time"),
    Word {
        keyword: "secret",
        form: None,
        arguments: &[once("name", Kind::SecretName)],
        properties: &[&[
            property("file", Kind::HostPath, "a file that holds it, from the workspace root"),
            property("env", Kind::Line, "an environment variable that holds it"),
            property(
                "version",
                Kind::Line,
                "raised when images depend on its change; 1 by default",
            ),
        ]],
        children: &[&[leaf(
            "command",
            &[some("word", Kind::Text).like("\"pass\" \"show\" \"rhsm\"")],
            "a program of the host that prints it, with its arguments",
        )]],
        doc: "where the value of a secret is found",
    },
];
