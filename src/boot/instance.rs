//! An instance as a cloud knows it, and the documents by which its guest learns of it.
//!
//! Sources: "Metadata service" and "Config drives" of the documentation of Nova; "Instance metadata
//! categories" of the documentation of EC2, in its version 2009-04-04.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::recipe::MetadataSource;
use crate::seed::{self, NoCloud, SeedError};

/// The versions of its own format that Nova serves.
const OPENSTACK: [&str; 9] = [
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "latest",
];
/// The versions of EC2's format that Nova serves.
const EC2: [&str; 10] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "latest",
];
/// What every name in a cloud ends with that says nothing else.
const DOMAIN: &str = "novalocal";

/// A machine, as its cloud knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id: a UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Public keys of whoever may log in.
    pub keys: Vec<String>,
    /// Its user data.
    #[serde(with = "in_base64")]
    pub user_data: Vec<u8>,
    /// The address of its network card.
    pub mac: String,
    /// Where it finds all this.
    pub source: MetadataSource,
}

/// Bytes as text that any JSON can hold.
mod in_base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl Instance {
    /// The name with a domain, as Nova gives it.
    fn hostname(&self) -> String {
        format!("{}.{DOMAIN}", self.name)
    }

    /// What a second disk holds, where the guest learns from one who it is.
    ///
    /// # Errors
    /// Where it would be too large.
    pub fn disk(&self) -> Result<Option<Vec<u8>>, SeedError> {
        match self.source {
            MetadataSource::Service => Ok(None),
            MetadataSource::Nocloud => {
                let seed = NoCloud {
                    user_data: self.user_data.clone(),
                    hostname: Some(self.name.clone()),
                    keys: self.keys.clone(),
                    network_config: None,
                };
                seed.disk().map(Some)
            }
            MetadataSource::ConfigDrive => {
                let documents = self.openstack();
                let mut files: Vec<(String, &[u8])> = Vec::new();
                for version in ["latest", "2018-08-27"] {
                    for (name, content) in &documents {
                        files.push((format!("openstack/{version}/{name}"), content));
                    }
                }
                let ec2 = self.ec2_document();
                files.push(("ec2/2009-04-04/meta-data.json".to_owned(), &ec2));
                files.push(("ec2/latest/meta-data.json".to_owned(), &ec2));
                if !self.user_data.is_empty() {
                    files.push(("ec2/2009-04-04/user-data".to_owned(), &self.user_data));
                    files.push(("ec2/latest/user-data".to_owned(), &self.user_data));
                }
                let files: Vec<(&str, &[u8])> =
                    files.iter().map(|(path, content)| (path.as_str(), *content)).collect();
                seed::disk(seed::CONFIG_DRIVE, &files).map(Some)
            }
        }
    }

    /// Everything that the metadata service answers, by path.
    #[must_use]
    pub fn service(&self) -> BTreeMap<String, Vec<u8>> {
        let mut paths = BTreeMap::new();
        let documents = self.openstack();
        for version in OPENSTACK {
            for (name, content) in &documents {
                paths.insert(format!("/openstack/{version}/{name}"), content.clone());
            }
        }
        for version in EC2 {
            for (name, content) in self.ec2() {
                paths.insert(format!("/{version}/meta-data/{name}"), content.into_bytes());
            }
            if !self.user_data.is_empty() {
                paths.insert(format!("/{version}/user-data"), self.user_data.clone());
            }
        }
        paths
    }

    /// The documents of Nova's own format, by name.
    fn openstack(&self) -> Vec<(&'static str, Vec<u8>)> {
        let named = |number: usize| format!("key-{number}");
        let keys: BTreeMap<_, _> =
            self.keys.iter().enumerate().map(|(at, key)| (named(at), key)).collect();
        let list: Vec<_> = keys
            .iter()
            .map(|(name, key)| json!({ "name": name, "type": "ssh", "data": key }))
            .collect();
        let meta = json!({
            "uuid": self.id,
            "name": self.name,
            "hostname": self.hostname(),
            "availability_zone": "nova",
            "launch_index": 0,
            "public_keys": keys,
            "keys": list,
            "meta": {},
            "devices": [],
        });
        // The name of the card in the guest is the guest's affair.
        let network = json!({
            "links": [{
                "id": "tap0", "type": "ovs", "mtu": 1500, "ethernet_mac_address": self.mac,
                "vif_id": self.id,
            }],
            "networks": [{
                "id": "network0", "network_id": self.id, "type": "ipv4_dhcp", "link": "tap0",
            }],
            "services": [],
        });
        let text = |value: &serde_json::Value| value.to_string().into_bytes();
        let mut documents = vec![
            ("meta_data.json", text(&meta)),
            ("network_data.json", text(&network)),
            ("vendor_data.json", b"{}".to_vec()),
            ("vendor_data2.json", b"{}".to_vec()),
        ];
        if !self.user_data.is_empty() {
            documents.push(("user_data", self.user_data.clone()));
        }
        documents
    }

    /// The values of EC2's format, by path below `meta-data`.
    fn ec2(&self) -> Vec<(String, String)> {
        let id = self.id.replace('-', "");
        let short = id.get(..8).unwrap_or(&id);
        let mut values: Vec<(String, String)> = [
            ("ami-id", format!("ami-{short}")),
            ("ami-launch-index", "0".to_owned()),
            ("hostname", self.hostname()),
            ("instance-id", format!("i-{short}")),
            ("instance-type", "m1.small".to_owned()),
            ("local-hostname", self.hostname()),
            ("placement/availability-zone", "nova".to_owned()),
            ("public-hostname", self.hostname()),
            ("reservation-id", format!("r-{short}")),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        for (at, key) in self.keys.iter().enumerate() {
            values.push((format!("public-keys/{at}/openssh-key"), format!("{key}\n")));
        }
        values
    }

    /// EC2's values in one document, as a config drive has them.
    fn ec2_document(&self) -> Vec<u8> {
        let keys: BTreeMap<_, _> = self
            .keys
            .iter()
            .enumerate()
            .map(|(at, key)| (at.to_string(), json!({ "openssh-key": key })))
            .collect();
        let mut document = json!({ "public-keys": keys });
        for (name, value) in self.ec2() {
            if !name.contains('/') {
                document[name] = value.into();
            }
        }
        document["placement"] = json!({ "availability-zone": "nova" });
        document.to_string().into_bytes()
    }
}

/// What a directory of the service lists; `None` where there is none.
///
/// A directory's own directories end with `/`, and EC2's keys are told with their names.
#[must_use]
pub(super) fn listing(paths: &BTreeMap<String, Vec<u8>>, directory: &str) -> Option<Vec<u8>> {
    let start = format!("{}/", directory.trim_end_matches('/'));
    let keys = start.ends_with("/meta-data/public-keys/");
    // Nova lists what it has at the top, and its versions, without the mark of a directory.
    let plain = start == "/" || start == "/openstack/";
    let mut names: Vec<String> = Vec::new();
    for path in paths.keys() {
        let Some(rest) = path.strip_prefix(&start) else { continue };
        let name = match rest.split_once('/') {
            Some((number, _)) if keys => format!("{number}=key-{number}"),
            Some((name, _)) if plain => name.to_owned(),
            Some((name, _)) => format!("{name}/"),
            None => rest.to_owned(),
        };
        if start == "/" && name == "openstack" {
            continue;
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    (!names.is_empty()).then(|| names.join("\n").into_bytes())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::boot) fn instance(source: MetadataSource) -> Instance {
        Instance {
            id: "d8e02d56-2648-49a3-bf97-6be8f1204f38".to_owned(),
            name: "clone-1".to_owned(),
            keys: vec!["ssh-ed25519 AAAA test".to_owned()],
            user_data: b"#!/bin/sh\n\xff".to_vec(),
            mac: "52:54:00:6b:00:01".to_owned(),
            source,
        }
    }

    #[test]
    fn both_formats_say_the_same() {
        let paths = instance(MetadataSource::Service).service();
        let meta: serde_json::Value =
            serde_json::from_slice(&paths["/openstack/latest/meta_data.json"]).unwrap();
        assert_eq!(meta["hostname"], "clone-1.novalocal");
        assert_eq!(meta["public_keys"]["key-0"], "ssh-ed25519 AAAA test");
        assert_eq!(paths["/2009-04-04/meta-data/hostname"], b"clone-1.novalocal");
        assert_eq!(
            paths["/latest/meta-data/public-keys/0/openssh-key"],
            b"ssh-ed25519 AAAA test\n"
        );
        assert_eq!(paths["/openstack/2018-08-27/user_data"], paths["/2009-04-04/user-data"]);
    }

    #[test]
    fn directories_are_listed_as_nova_lists_them() {
        let paths = instance(MetadataSource::Service).service();
        let list = |path: &str| {
            let list = listing(&paths, path).map(String::from_utf8);
            list.map(|list| list.unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(list("/").unwrap().len(), EC2.len());
        assert_eq!(list("/openstack").unwrap().len(), OPENSTACK.len());
        assert_eq!(list("/latest/meta-data/public-keys").unwrap(), ["0=key-0"]);
        assert_eq!(list("/latest/meta-data/public-keys/0/").unwrap(), ["openssh-key"]);
        assert!(list("/latest/meta-data/").unwrap().contains(&"placement/".to_owned()));
        assert_eq!(list("/latest"), Some(vec!["meta-data/".to_owned(), "user-data".to_owned()]));
        assert_eq!(list("/nothing"), None);
    }

    #[test]
    fn user_data_of_any_bytes_survives_the_way_to_the_service() {
        let instance = instance(MetadataSource::Service);
        let text = serde_json::to_string(&instance).unwrap();
        assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), instance);
    }

    #[test]
    fn only_the_service_needs_no_disk() {
        let disk = |source| instance(source).disk().unwrap();
        assert!(disk(MetadataSource::Service).is_none());
        let holds = |disk: &[u8], text: &str| {
            disk.windows(text.len()).any(|window| window == text.as_bytes())
        };
        assert!(holds(&disk(MetadataSource::ConfigDrive).unwrap(), "clone-1.novalocal"));
        assert!(holds(&disk(MetadataSource::Nocloud).unwrap(), "cidata"));
    }
}
