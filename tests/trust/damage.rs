//! Every byte of a record turned in every way, and every record cut short.

use kiln::name::Namespace;
use kiln::remote::statement::{ResultRecord, Statement};

use super::records::{TestKey, accept, blob, layers, statement};

/// A small record, with what it says.
fn small(ann: &TestKey) -> (Statement, ResultRecord) {
    let mut statement = statement();
    statement.chain.truncate(2);
    statement.host.clear();
    let record = ann.signer.sign(&statement, vec![None, Some(blob("two"))]).unwrap();
    (statement, record)
}

#[test]
fn no_flipped_bit_makes_another_result() {
    let ann = TestKey::new();
    let trust = ann.trust();
    let (statement, record) = small(&ann);
    let whole = record.encode();
    let text = String::from_utf8(whole.clone()).unwrap();
    // What is not signed: where layers are described, and a comment that nobody believes.
    let layers = text.find("\"layers\"").unwrap()..text.len();
    let comment = text.find("untrusted comment").unwrap();
    let comment = comment..comment + text[comment..].find("\\n").unwrap();
    let mut accepted_anyway = 0;
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let Ok(accepted) = accept(&bytes, &trust) else { continue };
            assert_eq!(accepted.statement, statement, "byte {at}, bit {bit}");
            assert_eq!(accepted.signer, ann.signer.id());
            assert!(layers.contains(&at) || comment.contains(&at), "byte {at}, bit {bit}");
            accepted_anyway += 1;
        }
    }
    // Digits of the blob that describes a layer, which is checked against the state.
    assert!(accepted_anyway > 0);
}

#[test]
fn no_flipped_bit_of_a_statement_is_signed() {
    let ann = TestKey::new();
    let trust = ann.trust();
    let (_, record) = small(&ann);
    for at in 0..record.statement.len() {
        for bit in 0..7 {
            let mut bytes = record.statement.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let statement = String::from_utf8(bytes).unwrap();
            let changed = ResultRecord { statement, ..record.clone() };
            assert!(accept(&changed.encode(), &trust).is_err(), "byte {at}, bit {bit}");
        }
    }
}

/// A key that is trusted and damages what it signs: what the shape of a statement alone keeps out.
#[test]
fn a_signed_statement_of_another_shape_is_no_other_result() {
    let ann = TestKey::new();
    let trust = ann.trust();
    let (_, record) = small(&ann);
    let whole = record.statement;
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone().into_bytes();
        bytes[at] ^= 1;
        let text = String::from_utf8(bytes).unwrap();
        let changed =
            ResultRecord { layers: vec![None, Some(blob("two"))], ..ann.record_of(&text) };
        if let Ok(accepted) = accept(&changed.encode(), &trust) {
            assert_eq!(accepted.statement.encode(), text, "byte {at}");
        }
    }
}

#[test]
fn no_record_that_is_cut_short_counts() {
    let ann = TestKey::new();
    let trust = ann.trust();
    let (_, record) = small(&ann);
    let whole = record.encode();
    for len in 0..whole.len() {
        assert!(accept(&whole[..len], &trust).is_err(), "{len} bytes");
    }
    for len in 0..record.signature.len() {
        let signature = record.signature[..len].to_owned();
        let cut = ResultRecord { signature, ..record.clone() };
        assert!(accept(&cut.encode(), &trust).is_err(), "{len} bytes of the signature");
    }
}

#[test]
fn a_record_counts_for_its_own_action_only() {
    let ann = TestKey::new();
    let record = ann.signer.sign(&statement(), layers()).unwrap().encode();
    let namespace = Namespace::default();
    for byte in 0..32 {
        for bit in 0..8 {
            let mut key = *super::records::key().0.as_bytes();
            key[byte] ^= 1 << bit;
            let key = kiln::digest::ActionKey(kiln::digest::Digest::from_bytes(key));
            assert!(ResultRecord::accept(&record, key, &namespace, &ann.trust()).is_err());
        }
    }
}
