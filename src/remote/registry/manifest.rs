//! A record as a manifest.

use std::collections::BTreeSet;

use oci_spec::image::{
    Descriptor, DescriptorBuilder, ImageManifest, ImageManifestBuilder, MediaType,
};

use crate::remote::backend::MAX_RECORD;
use crate::remote::{BlobId, BlobRef};

/// What a manifest is sent as.
pub(super) const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The type of a record, as an artifact and as a config.
const RECORD: &str = "application/vnd.kiln.result.v1+json";
/// The type of every blob.
const BLOB: &str = "application/vnd.kiln.blob.v1";
/// What a manifest without layers has as its only one, and its type.
pub(super) const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// The manifest of a record with some bytes, which needs some blobs.
pub(super) fn of(record: BlobRef, needs: &[BlobRef]) -> Vec<u8> {
    let mut seen = BTreeSet::new();
    let mut layers: Vec<_> = needs
        .iter()
        .filter(|blob| seen.insert(blob.id))
        .map(|&blob| descriptor(BLOB, blob))
        .collect();
    if layers.is_empty() {
        layers.push(descriptor(EMPTY_TYPE, BlobRef::of(EMPTY)));
    }
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .artifact_type(MediaType::Other(RECORD.to_owned()))
        .config(descriptor(RECORD, record))
        .layers(layers)
        .build()
        .expect("every required field is set");
    serde_json::to_vec(&manifest).expect("text and numbers can be written as JSON")
}

fn descriptor(kind: &str, blob: BlobRef) -> Descriptor {
    let digest = format!("sha256:{}", blob.id);
    DescriptorBuilder::default()
        .media_type(MediaType::Other(kind.to_owned()))
        .digest(digest.parse::<oci_spec::image::Digest>().expect("a SHA-256 digest is one"))
        .size(blob.len)
        .build()
        .expect("every required field is set")
}

/// Where the bytes of the record are that a manifest is; `None` where it is no record's.
pub(super) fn config(manifest: &[u8]) -> Option<BlobRef> {
    let manifest: ImageManifest = serde_json::from_slice(manifest).ok()?;
    let config = manifest.config();
    let id: BlobId = config.digest().to_string().strip_prefix("sha256:")?.parse().ok()?;
    let is_record = config.media_type().to_string() == RECORD;
    (is_record && (1..=MAX_RECORD).contains(&config.size()))
        .then(|| BlobRef { id, len: config.size() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_in_its_manifest() {
        let (record, one, two) = (BlobRef::of(b"record"), BlobRef::of(b"1"), BlobRef::of(b"22"));
        let written = of(record, &[one, two, one]);
        assert_eq!(config(&written), Some(record));
        let parsed: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(parsed["layers"].as_array().unwrap().len(), 2, "each blob once");
        assert_eq!(parsed["layers"][0]["mediaType"], BLOB);
        assert_eq!(parsed["artifactType"], RECORD);
        let bare: serde_json::Value = serde_json::from_slice(&of(record, &[])).unwrap();
        assert_eq!(bare["layers"][0]["mediaType"], EMPTY_TYPE);
    }

    #[test]
    fn what_is_no_record_is_not_taken_for_one() {
        let text = String::from_utf8(of(BlobRef::of(b"record"), &[])).unwrap();
        for (from, to) in [
            ("application/vnd.kiln.result.v1+json\",\"digest", "application/json\",\"digest"),
            ("\"size\":6", "\"size\":0"),
            ("\"size\":6", "\"size\":99999999"),
            ("sha256:", "sha512:"),
            ("schemaVersion", "schema"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert_eq!(config(changed.as_bytes()), None, "{to}");
        }
        assert_eq!(config(b""), None);
    }
}
