//! Properties that follow from what is known of an image: from the report of its seal, and from the
//! disk that its recipe asks for.
//!
//! Source: "Useful image properties" of Glance's documentation, whose names of distributions are
//! those of libosinfo.

use std::collections::BTreeMap;

use crate::recipe::Firmware;
use crate::seal::SealReport;

/// Architectures as Debian's and others' packages name them, and as Nova does.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("amd64", "x86_64"),
    ("arm64", "aarch64"),
    ("armhf", "armv7l"),
    ("i386", "i686"),
    ("ppc64el", "ppc64le"),
];
/// Architectures of packages that fit any machine.
const ANY: [&str; 4] = ["all", "noarch", "any", "(none)"];

/// The properties that follow. What is not known is not said.
#[must_use]
pub fn automatic(report: &SealReport, firmware: Option<Firmware>) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::from([("os_type", "linux".to_owned())]);
    if let Some(distribution) = &report.distribution
        && !distribution.id.is_empty()
    {
        properties.insert("os_distro", distro(&distribution.id));
        if !distribution.version.is_empty() {
            properties.insert("os_version", distribution.version.clone());
        }
    }
    let packages = report.packages.as_deref().unwrap_or_default();
    if let Some(architecture) = architecture(packages.iter().map(|p| p.architecture.as_str())) {
        properties.insert("architecture", architecture);
    }
    if packages.iter().any(|package| package.name == "qemu-guest-agent") {
        properties.insert("hw_qemu_guest_agent", "yes".to_owned());
    }
    // A disk for both starts with what Nova takes anyway.
    if firmware == Some(Firmware::Uefi) {
        properties.insert("hw_firmware_type", "uefi".to_owned());
    }
    let fits = |text: &str| text.chars().count() <= 255 && !text.chars().any(char::is_control);
    properties.retain(|_, value| fits(value));
    properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A distribution's `ID` of os-release as libosinfo names it.
fn distro(id: &str) -> String {
    if id.starts_with("opensuse") { "opensuse".to_owned() } else { id.to_owned() }
}

/// The architecture that most packages have.
fn architecture<'a>(packages: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in packages.filter(|name| !name.is_empty() && !ANY.contains(name)) {
        *counts.entry(name).or_default() += 1;
    }
    let (name, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let known = ARCHITECTURES.iter().find(|(of_package, _)| *of_package == name);
    Some(known.map_or(name, |(_, of_nova)| of_nova).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::installed::{Distribution, Package};
    use crate::seal::Labels;

    fn report(id: &str, packages: &[(&str, &str)]) -> SealReport {
        let package = |(name, architecture): &(&str, &str)| Package {
            name: (*name).to_owned(),
            version: "1".to_owned(),
            architecture: (*architecture).to_owned(),
        };
        SealReport {
            system: String::new(),
            scrub: Vec::new(),
            packages: Some(packages.iter().map(package).collect()),
            distribution: Some(Distribution {
                id: id.to_owned(),
                version: "12".to_owned(),
                manager: None,
            }),
            systems: Vec::new(),
            labels: Labels::NotApplicable { reason: String::new() },
            audit: None,
        }
    }

    #[test]
    fn the_report_says_what_nova_wants_to_know() {
        let packages = [("libc6", "amd64"), ("tzdata", "all"), ("qemu-guest-agent", "amd64")];
        let known = automatic(&report("debian", &packages), Some(Firmware::Uefi));
        let text: Vec<_> = known.iter().map(|(key, value)| format!("{key}={value}")).collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        architecture=x86_64
        hw_firmware_type=uefi
        hw_qemu_guest_agent=yes
        os_distro=debian
        os_type=linux
        os_version=12
        ");
        let known = automatic(&report("opensuse-leap", &[("x", "noarch")]), Some(Firmware::Both));
        assert_eq!(known["os_distro"], "opensuse");
        assert!(!known.contains_key("architecture") && !known.contains_key("hw_firmware_type"));
    }
}
