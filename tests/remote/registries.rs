//! What kiln puts into a registry, as ordinary tools see it.

use std::process::Command;

use kiln::remote::backend::Backend;
use kiln::remote::{BlobRef, RecordName};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::OciManifest;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use crate::contract::result;
use crate::servers::{REGISTRY, ask};
use crate::{Opened, bytes, unique};

/// A repository with one record that needs two blobs.
struct Shared {
    repository: String,
    remote: Box<dyn Backend>,
    name: RecordName,
    record: Vec<u8>,
    blobs: [Vec<u8>; 2],
}

fn shared() -> Shared {
    let repository = format!("team/{}", unique());
    let remote = Opened::new(&format!("oci+http://{}/{repository}", REGISTRY.address)).open();
    let (name, record, blobs) = (result(), bytes(400), [bytes(70_000), bytes(30_000)]);
    let needs = blobs.each_ref().map(|blob| BlobRef::of(blob));
    for (blob, bytes) in needs.iter().zip(&blobs) {
        remote.put_blob(*blob, bytes).unwrap();
    }
    remote.put_record(&name, &record, &[needs[0], needs[1], needs[0]]).unwrap();
    Shared { repository, remote, name, record, blobs }
}

impl Shared {
    fn tag(&self) -> String {
        format!("main.results.{}", self.name.name)
    }

    fn at(&self, repository: &str) -> String {
        format!("docker://{}/{repository}:{}", REGISTRY.address, self.tag())
    }
}

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").args(arguments).output().expect("skopeo runs");
    assert!(output.status.success(), "skopeo {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn skopeo_lists_copies_and_deletes_results() {
    let shared = shared();
    let (here, copy) = (shared.at(&shared.repository), format!("copies/{}", unique()));
    let there = shared.at(&copy);
    let repository = here.rsplit_once(':').unwrap().0;
    let tags = skopeo(&["list-tags", "--tls-verify=false", repository]);
    assert!(tags.contains(&shared.tag()), "{tags}");

    skopeo(&["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &here, &there]);
    let copied = Opened::new(&format!("oci+http://{}/{copy}", REGISTRY.address)).open();
    assert_eq!(copied.record(&shared.name).unwrap(), Some(shared.record.clone()));
    for bytes in &shared.blobs {
        let blob = BlobRef::of(bytes);
        assert!(copied.has_blob(blob).unwrap());
        assert!(copied.read_blob(blob, 0..blob.len).unwrap() == *bytes);
    }

    skopeo(&["delete", "--tls-verify=false", &here]);
    assert_eq!(shared.remote.record(&shared.name).unwrap(), None);
    assert!(copied.record(&shared.name).unwrap().is_some());
}

#[test]
fn another_client_reads_what_kiln_wrote() {
    let shared = shared();
    let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(config);
        let text = format!("{}/{}:{}", REGISTRY.address, shared.repository, shared.tag());
        let reference: Reference = text.parse().unwrap();
        let (manifest, _) =
            client.pull_manifest(&reference, &RegistryAuth::Anonymous).await.unwrap();
        let OciManifest::Image(manifest) = manifest else { panic!("an image manifest") };
        let kind = "application/vnd.kiln.result.v1+json";
        assert_eq!(manifest.artifact_type.as_deref(), Some(kind));
        assert_eq!(manifest.config.media_type, kind);
        assert_eq!(manifest.layers.len(), 2, "each blob once");
        for (layer, bytes) in manifest.layers.iter().zip(&shared.blobs) {
            assert_eq!(layer.media_type, "application/vnd.kiln.blob.v1");
            let mut came = Vec::new();
            client.pull_blob(&reference, layer, &mut came).await.unwrap();
            assert!(came == *bytes);
        }
        let mut record = Vec::new();
        client.pull_blob(&reference, &manifest.config, &mut record).await.unwrap();
        assert_eq!(record, shared.record);
    });
}

#[test]
fn a_record_without_blobs_has_the_empty_layer() {
    let repository = format!("team/{}", unique());
    let remote = Opened::new(&format!("oci+http://{}/{repository}", REGISTRY.address)).open();
    let name = result();
    remote.put_record(&name, b"record", &[]).unwrap();
    let path = format!("/v2/{repository}/manifests/main.results.{}", name.name);
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    let (status, answer) = ask(&REGISTRY.address, "GET", &path, &accept);
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("application/vnd.oci.empty.v1+json"), "{answer}");
    assert_eq!(remote.record(&name).unwrap().as_deref(), Some(&b"record"[..]));
}

#[test]
fn a_manifest_needs_its_blobs() {
    let repository = format!("team/{}", unique());
    let remote = Opened::new(&format!("oci+http://{}/{repository}", REGISTRY.address)).open();
    let name = result();
    remote.put_record(&name, b"record", &[BlobRef::of(&bytes(10))]).unwrap_err();
    assert_eq!(remote.record(&name).unwrap(), None, "the registry keeps no half of a result");
}
