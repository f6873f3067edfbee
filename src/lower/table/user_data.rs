//! The words of user data and of Heat templates.

use super::{Kind, Property, Word, any, leaf, once, property, some};

const KEY: Word = leaf("key", &[some("key", Kind::PublicKey)], "public keys of whoever logs in");

/// What a `cloud-config` block may hold.
const CONFIG: &[Word] = &[
    Word {
        keyword: "packages",
        form: None,
        arguments: super::PACKAGES,
        properties: &[&[
            property("update", Kind::Flag, "fetch the lists of packages first; off by default"),
            property("upgrade", Kind::Flag, "upgrade every package; off by default"),
        ]],
        children: &[],
        doc: "packages, whatever the guest's package manager is",
    },
    Word {
        keyword: "user",
        form: None,
        arguments: &[once("name", Kind::User)],
        properties: &[&[
            property("groups", Kind::Line, "further groups, with commas"),
            property("shell", Kind::GuestFile, "the login shell; the guest's own by default"),
            property("sudo", Kind::Flag, "may become root without a password; off by default"),
        ]],
        children: &[&[KEY]],
        doc: "a user beside the default one",
    },
    KEY,
    Word {
        keyword: "file",
        form: None,
        arguments: &[once("path", Kind::GuestFile), any("content", Kind::Content)],
        properties: &[&[
            property("source", Kind::LocalPath, "a file of the workspace, in place of a content"),
            property("mode", Kind::Mode, "the permission bits; 0644 by default"),
            property("owner", Kind::Owners, "the user, the group, or both; root by default"),
        ]],
        children: &[],
        doc: "a file that is written",
    },
    leaf(
        "run",
        &[some("word", Kind::Text).like("\"systemctl restart ntp\"")],
        "a line for sh, or a program and its arguments",
    ),
    leaf("hostname", &[once("name", Kind::Hostname)], "the host name"),
    leaf("timezone", &[once("zone", Kind::Timezone)], "the time zone"),
    leaf("reboot", &[], "reboot when all is done"),
];

const TEXT: Property = property("text", Kind::Script, "the script itself, in place of a file");

/// The parts of user data.
const PARTS: &[Word] = &[
    Word {
        keyword: "script",
        form: None,
        arguments: &[any("file", Kind::LocalPath)],
        properties: &[&[
            TEXT,
            property(
                "per",
                Kind::Choice(&["boot", "instance", "once"]),
                "how often it runs; with all scripts of an instance's first boot by default",
            ),
        ]],
        children: &[],
        doc: "a script that runs late in the boot",
    },
    Word {
        keyword: "cloud-config",
        form: None,
        arguments: &[],
        properties: &[&[property(
            "file",
            Kind::LocalPath,
            "a file of YAML that starts with #cloud-config, in place of a block",
        )]],
        children: &[CONFIG],
        doc: "what cloud-init does itself",
    },
    Word {
        keyword: "include",
        form: None,
        arguments: &[some("url", Kind::Url).like("\"https://example.org/more.sh\"")],
        properties: &[&[property("once", Kind::Flag, "fetch at the first boot only")]],
        children: &[],
        doc: "addresses that the instance fetches more user data from",
    },
    Word {
        keyword: "boothook",
        form: None,
        arguments: &[any("file", Kind::LocalPath)],
        properties: &[&[TEXT]],
        children: &[],
        doc: "a script that runs early in every boot",
    },
    leaf(
        "require",
        &[some("path", Kind::GuestFile).like("\"/usr/bin/wget\"")],
        "paths that must be there by then, or the boot has failed",
    ),
    Word {
        keyword: "part",
        form: None,
        arguments: &[once("file", Kind::LocalPath).like("\"files/template.txt\"")],
        properties: &[&[property("type", Kind::MediaType, "its media type; it must be said")]],
        children: &[],
        doc: "anything else",
    },
];

/// The words of a template.
const HEAT: &[Word] = &[
    leaf("description", &[once("text", Kind::Line)], "what the template says of itself"),
    Word {
        keyword: "server",
        form: None,
        arguments: &[],
        properties: &[&[
            property("image", Kind::ImageName, "an image of the workspace, in Glance by its name"),
            property("image-name", Kind::Line, "the name or id of any other image in Glance"),
            property("flavor", Kind::Line, "the name or id of a flavor"),
            property("key-name", Kind::Line, "the name of a key pair"),
            property("network", Kind::Line, "the name or id of a network"),
            property("user-data", Kind::DocumentName, "its user data"),
        ]],
        children: &[],
        doc: "the server; what is not said is a parameter of the template",
    },
    leaf(
        "security-group",
        &[some("name", Kind::Line).like("\"web\"")],
        "names or ids of security groups",
    ),
    Word {
        keyword: "wait",
        form: None,
        arguments: &[],
        properties: &[&[
            property("timeout", Kind::Period, "the longest wait; 1h by default, 12h at most"),
            property("count", Kind::Count, "how many signals; 1 by default"),
            property(
                "through",
                Kind::Choice(&["swift", "heat"]),
                "who takes the signal; swift by default",
            ),
        ]],
        children: &[],
        doc: "whether the stack waits until a script says that it is done",
    },
];

/// User data itself.
pub(super) const USER_DATA: Word = Word {
    keyword: "user-data",
    form: None,
    arguments: &[once("name", Kind::DocumentName)],
    properties: &[&[property("gzip", Kind::Flag, "compress it; off by default")]],
    children: &[PARTS],
    doc: "what an instance is told when it boots",
};

/// The template itself.
pub(super) const TEMPLATE: Word = Word {
    keyword: "heat",
    form: None,
    arguments: &[once("name", Kind::DocumentName)],
    properties: &[],
    children: &[HEAT],
    doc: "a Heat template with one server",
};
