//! The words of a boot test.

use super::{Kind, Word, leaf, once, property, some};
use crate::recipe::{BootCheck, BootFirmware, MetadataSource};

/// A command that must succeed in the booted guest.
pub(crate) const COMMAND: &str = "expect-command";

const CHECKS: &[&str] = &[
    BootCheck::Console.keyword(),
    BootCheck::Hostname.keyword(),
    BootCheck::UserData.keyword(),
    BootCheck::Key.keyword(),
    BootCheck::Ssh.keyword(),
    BootCheck::Growth.keyword(),
    BootCheck::Clones.keyword(),
    BootCheck::Labels.keyword(),
];

const SOURCES: &[&str] = &[
    MetadataSource::ConfigDrive.keyword(),
    MetadataSource::Service.keyword(),
    MetadataSource::Nocloud.keyword(),
];

const FIRMWARE: &[&str] = &[BootFirmware::Bios.keyword(), BootFirmware::Uefi.keyword()];

/// The boot test of an image.
pub(crate) const TESTS: &[Word] = &[Word {
    keyword: "test",
    form: None,
    arguments: &[],
    properties: &[&[property(
        "timeout",
        Kind::Period,
        "how long a boot may take; 20 minutes by default",
    )]],
    children: &[&[
        leaf("memory", &[once("size", Kind::Size)], "memory of a machine; 1 GiB by default"),
        leaf(
            "firmware",
            &[once("kind", Kind::Choice(FIRMWARE))],
            "what starts it; found from the disk by default",
        ),
        leaf(
            "metadata",
            &[some("source", Kind::Choice(SOURCES))],
            "where the machines find who they are; config-drive and service by default",
        ),
        leaf(
            "user",
            &[once("user", Kind::User)],
            "who must be let in; whom the guest names by default",
        ),
        leaf("expect", &[once("text", Kind::Line)], "a text on the serial console"),
        Word {
            keyword: COMMAND,
            form: None,
            arguments: &[once("command", Kind::Script).like("\"systemctl is-active nginx\"")],
            properties: &[&[property("output", Kind::Text, "what it prints")]],
            children: &[],
            doc: "a command that succeeds in the booted guest",
        },
        leaf("without", &[some("check", Kind::Choice(CHECKS))], "what a boot need not show"),
    ]],
    doc: "how the image is tested by booting it",
}];
