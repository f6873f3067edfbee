//! The words of a `publish`.

use super::{Kind, Word, form, leaf, once, some};
use crate::recipe::Visibility;

const VISIBILITIES: &[&str] = &[
    Visibility::Private.keyword(),
    Visibility::Shared.keyword(),
    Visibility::Community.keyword(),
    Visibility::Public.keyword(),
];

const GLANCE: &[Word] = &[
    leaf(
        "name",
        &[once("name", Kind::Line).like("\"debian-golden\"")],
        "what it is called there; the image's name by default",
    ),
    leaf(
        "output",
        &[once("format", Kind::Choice(&["qcow2", "raw"])).like("\"qcow2\"")],
        "which output is uploaded; the first by default",
    ),
    leaf(
        "visibility",
        &[once("who", Kind::Choice(VISIBILITIES)).like("\"private\"")],
        "who sees it; private by default",
    ),
    leaf(
        "property",
        &[
            once("key", Kind::Line).like("\"os_distro\""),
            once("value", Kind::Line).like("\"debian\""),
        ],
        "a property",
    ),
    leaf(
        "auto-properties",
        &[once("wanted", Kind::Flag)],
        "whether properties are taken from what is known of the guest; on by default",
    ),
    leaf("tag", &[some("tag", Kind::Line).like("\"golden\"")], "tags"),
    leaf(
        "keep-old",
        &[once("period", Kind::Period)],
        "how long a superseded image stays at least; 24h by default",
    ),
    leaf(
        "keep-last",
        &[once("count", Kind::Count)],
        "how many superseded images stay, however old; 1 by default",
    ),
    leaf("protected", &[once("wanted", Kind::Flag)], "whether nobody can delete it"),
    leaf(
        "min-disk",
        &[once("size", Kind::Size).like("\"10G\"")],
        "the smallest disk of an instance; the virtual disk's size by default",
    ),
    leaf(
        "min-ram",
        &[once("size", Kind::Size).like("\"512M\"")],
        "the smallest memory of an instance",
    ),
    leaf(
        "cloud",
        &[once("name", Kind::Line).like("\"prod\"")],
        "an entry of clouds.yaml; what OS_CLOUD or the environment says by default",
    ),
    leaf("region", &[once("name", Kind::Line).like("\"one\"")], "the region in that cloud"),
];

/// Where images go.
pub const PUBLISH: &[Word] =
    &[form("publish", "glance", &[], &[], &[GLANCE], "the image service of an OpenStack cloud")];
