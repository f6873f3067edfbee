//! The packages of a state, as a CycloneDX 1.5 document.
//!
//! Two states with the same packages have the same document, byte for byte. The names of packages
//! are the guest's, and were cleaned when its database was read.

use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::metadata::Metadata;
use cyclonedx_bom::models::tool::{Tool, Tools};
use cyclonedx_bom::prelude::{Bom, NormalizedString, Purl, SpecVersion};

use crate::guest::inspect::PackageManager;
use crate::guest::installed::{Distribution, Inventory, Package};

/// The document of a guest's packages.
#[must_use]
pub fn document(inventory: &Inventory) -> Vec<u8> {
    let Inventory { distribution, packages } = inventory;
    let component = |package: &Package| {
        let Package { name, version, .. } = package;
        let purl = purl(distribution, package);
        let mut component = Component::new(Classification::Library, name, version, purl.clone());
        component.purl = purl.and_then(|purl| purl.parse::<Purl>().ok());
        component
    };
    let system = Component::new(
        Classification::OperatingSystem,
        &distribution.id,
        &distribution.version,
        Some("system".to_owned()),
    );
    let kiln = Tool {
        vendor: None,
        name: Some(NormalizedString::new("kiln")),
        version: Some(NormalizedString::new(env!("CARGO_PKG_VERSION"))),
        hashes: None,
        external_references: None,
    };
    let metadata = Metadata {
        timestamp: None,
        tools: Some(Tools::List(vec![kiln])),
        authors: None,
        component: Some(system),
        manufacture: None,
        supplier: None,
        licenses: None,
        properties: None,
        lifecycles: None,
    };
    let bom = Bom {
        version: 1,
        serial_number: None,
        metadata: Some(metadata),
        components: Some(Components(packages.iter().map(component).collect())),
        services: None,
        external_references: None,
        dependencies: None,
        compositions: None,
        properties: None,
        vulnerabilities: None,
        signature: None,
        annotations: None,
        formulation: None,
        spec_version: SpecVersion::V1_5,
    };
    let mut bytes = Vec::new();
    bom.output_as_json_v1_5(&mut bytes).expect("every part is one that version 1.5 has");
    bytes
}

/// The document without what another one has too: what a layer brought or changed. `None` where one
/// of them is no document.
#[must_use]
pub fn without(document: &[u8], below: &[u8]) -> Option<Vec<u8>> {
    let mut document: serde_json::Value = serde_json::from_slice(document).ok()?;
    let below: serde_json::Value = serde_json::from_slice(below).ok()?;
    let known = below.get("components").and_then(|list| list.as_array())?;
    let components = document.get_mut("components")?.as_array_mut()?;
    components.retain(|component| !known.contains(component));
    serde_json::to_vec_pretty(&document).ok()
}

/// A package's name everywhere; `None` where its kind of package has none.
///
/// Source: the Package URL specification, types `deb`, `rpm`, `apk` and `alpm`.
fn purl(distribution: &Distribution, package: &Package) -> Option<String> {
    let kind = match distribution.manager? {
        PackageManager::Apt => "deb",
        PackageManager::Dnf | PackageManager::Yum | PackageManager::Zypper => "rpm",
        PackageManager::Apk => "apk",
        PackageManager::Pacman => "alpm",
    };
    let Package { name, version, architecture } = package;
    // An rpm's epoch is not part of its version there.
    let (epoch, version) = match version.split_once(':') {
        Some((epoch, version)) if kind == "rpm" => (Some(epoch), version),
        _ => (None, version.as_str()),
    };
    let epoch = epoch.map(|epoch| format!("&epoch={}", encoded(epoch))).unwrap_or_default();
    let [id, name, version, architecture] =
        [distribution.id.as_str(), name, version, architecture].map(encoded);
    let namespace = if id.is_empty() { id } else { format!("{id}/") };
    Some(format!("pkg:{kind}/{namespace}{name}@{version}?arch={architecture}{epoch}"))
}

/// A text as it stands in a part of a package's name.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn package(line: &str) -> Package {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let [name, version, architecture] = <[String; 3]>::try_from(words).unwrap();
        Package { name, version, architecture }
    }

    fn inventory(id: &str, manager: Option<PackageManager>, packages: &[&str]) -> Inventory {
        let (id, version) = (id.to_owned(), "12".to_owned());
        let packages = packages.iter().map(|line| package(line)).collect();
        Inventory { distribution: Distribution { id, version, manager }, packages }
    }

    #[test]
    fn a_document_names_every_package() {
        let packages = ["adduser 3.134 all", "g++ 4:12.2.0-3 amd64"];
        let document = document(&inventory("debian", Some(PackageManager::Apt), &packages));
        let text = String::from_utf8(document).unwrap();
        insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }

    #[test]
    fn packages_are_named_as_everywhere() {
        for (id, manager, line, expected) in [
            (
                "debian",
                PackageManager::Apt,
                "g++ 4:12.2.0-3 amd64",
                "pkg:deb/debian/g%2B%2B@4%3A12.2.0-3?arch=amd64",
            ),
            (
                "fedora",
                PackageManager::Dnf,
                "acl 2:2.3-1 x86_64",
                "pkg:rpm/fedora/acl@2.3-1?arch=x86_64&epoch=2",
            ),
            (
                "centos",
                PackageManager::Yum,
                "zlib 1.2-1.el7 x86_64",
                "pkg:rpm/centos/zlib@1.2-1.el7?arch=x86_64",
            ),
            (
                "alpine",
                PackageManager::Apk,
                "musl 1.2.5-r0 x86_64",
                "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64",
            ),
            (
                "arch",
                PackageManager::Pacman,
                "bash 5.2-1 x86_64",
                "pkg:alpm/arch/bash@5.2-1?arch=x86_64",
            ),
        ] {
            let inventory = inventory(id, Some(manager), &[line]);
            let found = purl(&inventory.distribution, &inventory.packages[0]);
            assert_eq!(found.as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_layer_has_what_the_state_below_has_not() {
        let of =
            |packages: &[&str]| document(&inventory("alpine", Some(PackageManager::Apk), packages));
        let below = of(&["a 1 x", "b 1 x"]);
        let layer = without(&of(&["a 1 x", "b 2 x", "c 1 x"]), &below).unwrap();
        let layer: serde_json::Value = serde_json::from_slice(&layer).unwrap();
        let names = layer["components"].as_array().unwrap().iter().map(|found| &found["purl"]);
        let names: Vec<_> = names.collect();
        assert_eq!(names, ["pkg:apk/alpine/b@2?arch=x", "pkg:apk/alpine/c@1?arch=x"]);
        assert_eq!(without(b"{}", &below), None);
    }

    proptest! {
        /// The format's own library finds no fault, whatever a guest's database holds.
        #[test]
        fn every_document_is_valid(lines in prop::collection::btree_set("[ -~&&[^ ]]{1,9} [!-~]{1,9} [!-~]{1,9}", 0..5)) {
            use cyclonedx_bom::validation::Validate;
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let bytes = document(&inventory("debian", Some(PackageManager::Apt), &lines));
            let bom = Bom::parse_from_json_v1_5(&bytes[..]).unwrap();
            prop_assert!(bom.validate_version(SpecVersion::V1_5).passed(), "{:?}", bom.validate_version(SpecVersion::V1_5));
            prop_assert_eq!(bom.components.unwrap().0.len(), lines.len());
        }
    }
}
