//! YAML of any texts, as `PyYAML` reads it: it is what cloud-init and Heat read with.

use kiln::yaml::Yaml;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{files, many, python};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any::<String>(),
        3 => "([ -~]{0,12}\n?){0,5}",
        2 => "[ \t\n#:&*!|>'\"%@`{}\\[\\],?-]{0,12}",
        2 => "( {0,3}[a-z]{0,3}[ \t]{0,2}\n{0,3}){0,4}",
        1 => "[a\u{85}\u{a0}\u{2028}\u{2029}\u{feff}\u{fffe}\r\n\u{7f}\u{e000}𝄞]{0,8}",
        1 => prop::sample::select(vec![
            "yes", "No", "on", "null", "~", "1", "0x1f", "0o7", "1_0", "1e3", ".inf", "12:30:45",
            "2016-10-14", "---", "...", "- a", "a: b", "a #b", "<<", "=", "!x", "|", ">", "",
            "--- a\n... b\n", "\n", "\n\n", " \n a\n", "\ta\n", "a\n\n\n", "a\n ", "\n a",
        ])
        .prop_map(str::to_owned),
    ]
}

fn value() -> impl Strategy<Value = Yaml> {
    let leaf = prop_oneof![
        6 => text().prop_map(Yaml::Text),
        2 => text().prop_map(Yaml::Template),
        1 => any::<u32>().prop_map(|number| Yaml::Number(number.into())),
        1 => any::<bool>().prop_map(Yaml::Flag),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Yaml::List),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..4)
                .prop_map(|map| Yaml::Map(map.into_iter().collect())),
        ]
    })
}

fn as_json(value: &Yaml) -> Value {
    match value {
        Yaml::Text(text) | Yaml::Template(text) => json!(text),
        Yaml::Number(number) => json!(number),
        Yaml::Flag(flag) => json!(flag),
        Yaml::List(values) => values.iter().map(as_json).collect(),
        Yaml::Map(pairs) => {
            pairs.iter().map(|(name, value)| (name.clone(), as_json(value))).collect()
        }
        Yaml::Inline(value) => as_json(value),
    }
}

#[test]
fn every_text_reads_back_as_what_it_was() {
    let values: Vec<Yaml> = many(&value(), 1500)
        .into_iter()
        .map(|value| Yaml::map([("a", value.clone()), ("list", Yaml::List(vec![value]))]))
        .collect();
    let documents: Vec<_> = values.iter().map(Yaml::document).collect();
    let directory = files(&documents);
    let read: Vec<Value> =
        serde_json::from_str(&python("read_yaml.py", &[directory.path()])).unwrap();
    for ((value, document), read) in values.iter().zip(&documents).zip(&read) {
        assert_eq!(as_json(value), *read, "{document}");
    }
    let blocks = documents.iter().filter(|document| document.contains(": |")).count();
    assert!(blocks > 100, "{blocks} documents have literal blocks");
}

#[test]
fn what_others_wrote_is_read_as_by_pyyaml() {
    let documents = [
        "write_files:\n- {content: !!binary /w==, path: /a}\n",
        "a: 1\nb: x\na: 2\n",
        "a: &x [1, 2]\nb: *x\n",
        "base: &x {p: 1}\nb: {<<: *x, q: 2}\n",
        "a: 'it''s'\nb: |\n  c\n",
    ];
    let directory = files(&documents[1..]);
    let read: Vec<Value> =
        serde_json::from_str(&python("read_yaml.py", &[directory.path()])).unwrap();
    for (document, read) in documents[1..].iter().zip(read) {
        assert_eq!(json!(kiln::yaml::pairs(document).unwrap()), read, "{document}");
    }
    // Bytes have no form in JSON; it is enough that the document is one.
    assert!(kiln::yaml::pairs(documents[0]).unwrap().contains_key("write_files"));
    for document in ["- a\n", "a: [\n", "text\n"] {
        assert_eq!(kiln::yaml::pairs(document), None, "{document}");
    }
}
