//! A bundle that was damaged, cut off or made by somebody hostile, or a store that cannot be written:
//! what is recorded is right.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln::digest::{ActionKey, StateId};
use kiln::engine::bundle::{Import, ImportError};
use kiln::files::Host;
use kiln::remote::backend::Backend;
use kiln::remote::trust::Trust;
use kiln::remote::{Bundle, BundleWriter};
use kiln::store::Store;

use super::failing::Failing;
use super::sites::{believed, built, check_whole, import, site};
use super::team::{How, Key};

/// Bytes that are flipped, all over the file.
const FLIPS: usize = 200;

/// Imports a bundle that is not as it was made; tells whether everything of it was taken.
fn survives(key: &Key, path: &Path, all: &BTreeSet<(ActionKey, StateId)>, case: &str) -> bool {
    let there = site(&How::with(key));
    let said = import(&there, path, &How::with(key));
    let got = believed(&there);
    assert!(got.is_subset(all), "{case}");
    check_whole(&there);
    match said.result {
        Ok(imported) => {
            assert_eq!(imported.new, got.len(), "{case}");
            assert_eq!(imported.new + imported.refused, all.len(), "{case}");
            assert_eq!(said.warnings.len(), imported.refused, "{case}");
        }
        Err(ImportError::Damaged { results, .. }) => {
            assert!(results > 0 && got.len() + said.warnings.len() == all.len(), "{case}");
        }
        Err(ImportError::Bundle(_) | ImportError::Nothing { .. }) => {
            assert!(got.is_empty(), "{case}");
        }
        Err(error) => panic!("{case}: {error:?}"),
    }
    got.len() == all.len()
}

#[test]
fn whatever_byte_is_flipped_nothing_wrong_is_recorded() {
    let key = Key::new();
    let (here, path) = built(&key, &["web"]);
    let all = {
        let there = site(&How::with(&key));
        import(&there, &path, &How::with(&key)).result.unwrap();
        believed(&there)
    };
    let bytes = std::fs::read(&path).unwrap();
    let flipped = here.root().join("flipped.kiln");
    let mut whole = 0;
    let offsets: Vec<usize> = (0..bytes.len()).step_by(bytes.len() / FLIPS).collect();
    for &at in &offsets {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&flipped, bytes).unwrap();
        whole += usize::from(survives(&key, &flipped, &all, &format!("byte {at}")));
    }
    // Padding and what is only shown may be anything; most bytes are neither.
    assert!(whole < offsets.len(), "{whole} of {}", offsets.len());
}

#[test]
fn a_bundle_that_is_cut_off_is_none() {
    let key = Key::new();
    let (here, path) = built(&key, &["db"]);
    let bytes = std::fs::read(&path).unwrap();
    let cut = here.root().join("cut.kiln");
    for len in (0..bytes.len()).step_by(509).chain([bytes.len() - 1]) {
        std::fs::write(&cut, &bytes[..len]).unwrap();
        let there = site(&How::with(&key));
        let said = import(&there, &cut, &How::with(&key));
        assert!(matches!(said.result, Err(ImportError::Bundle(_))), "{len}");
        assert!(believed(&there).is_empty() && said.warnings.is_empty(), "{len}");
    }
}

#[test]
fn without_any_one_blob_what_stands_on_it_is_not_recorded() {
    let key = Key::new();
    let (here, path) = built(&key, &["web"]);
    let bundle = Bundle::open(&path).unwrap();
    let without = here.root().join("without.kiln");
    for left_out in bundle.blobs() {
        let mut writer = BundleWriter::new(&Host, &without).unwrap();
        for blob in bundle.blobs().filter(|blob| *blob != left_out) {
            writer.blob(blob, &bundle.read_blob(blob, 0..blob.len).unwrap()).unwrap();
        }
        for name in bundle.records() {
            writer.record(name, &bundle.record(name).unwrap().unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let there = site(&How::with(&key));
        let said = import(&there, &without, &How::with(&key));
        let Err(ImportError::Damaged { results, .. }) = said.result else { panic!("{left_out:?}") };
        assert_eq!((results, said.warnings.len()), (said.warnings.len(), results));
        check_whole(&there);
        // The whole one mends it.
        import(&there, &path, &How::with(&key)).result.unwrap();
        check_whole(&there);
    }
}

#[test]
fn a_store_that_is_full_at_any_moment_has_whole_results() {
    let key = Key::new();
    let how = How::with(&key);
    let (here, path) = built(&key, &["db"]);
    let mut moments = 0;
    loop {
        let there = site(&how);
        there.open();
        let store = Store::open_with(&there.store, Arc::new(Failing::after(moments))).unwrap();
        let (namespace, interrupted) = (how.namespace.parse().unwrap(), &AtomicBool::new(false));
        let trust = Trust::new(&[key.trusted(false)]);
        let result =
            Import { store: &store, namespace, trust, interrupted }.read(&path, &mut |_| {});
        check_whole(&there);
        assert!(believed(&there).is_subset(&believed(&here)), "after {moments} operations");
        if result.is_ok() {
            break;
        }
        assert!(matches!(result, Err(ImportError::File(_) | ImportError::Store(_))), "{moments}");
        // There is room again.
        import(&there, &path, &how).result.unwrap();
        check_whole(&there);
        assert_eq!(believed(&there).len(), 3);
        moments += 1;
    }
    assert!(moments > 30, "{moments} operations can fail");
}
