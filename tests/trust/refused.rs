//! Records that do not count, each with the reason that is told.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln::digest::{ActionKey, Digest};
use kiln::name::Namespace;
use kiln::remote::accept::Distrust;
use kiln::remote::backend::{MAX_BLOB, MAX_RECORD};
use kiln::remote::statement::{Link, MAX_CHAIN, ResultRecord, Statement};
use kiln::remote::trust::Trust;
use kiln::remote::{BlobId, BlobRef};

use super::records::{TestKey, accept, blob, key, layers, state, statement};

/// The kind of a reason.
fn kind(distrust: &Distrust) -> String {
    let text = format!("{distrust:?}");
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Collects cases by name, so that none is there twice.
#[derive(Default)]
struct Cases(BTreeMap<&'static str, (Vec<u8>, &'static str)>);

impl Cases {
    fn add(&mut self, name: &'static str, bytes: Vec<u8>, reason: &'static str) {
        assert!(self.0.insert(name, (bytes, reason)).is_none(), "{name}");
    }

    /// Every case is refused for its reason.
    fn check(&self, trust: &Trust) {
        for (name, (bytes, reason)) in &self.0 {
            match accept(bytes, trust) {
                Ok(_) => panic!("{name}: accepted"),
                Err(distrust) => assert_eq!(kind(&distrust), *reason, "{name}: {distrust}"),
            }
        }
    }
}

/// The lines of a signature file.
fn lines(signature: &str) -> Vec<String> {
    signature.lines().map(str::to_owned).collect()
}

/// A signature file with its second line changed.
fn with_bytes(signature: &str, change: impl Fn(&mut Vec<u8>)) -> String {
    let mut lines = lines(signature);
    let mut bytes = STANDARD.decode(&lines[1]).unwrap();
    change(&mut bytes);
    lines[1] = STANDARD.encode(bytes);
    lines.join("\n") + "\n"
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table with a line for each case")]
fn signatures() {
    let (ann, eve, old) = (TestKey::new(), TestKey::new(), TestKey::new());
    let trust = Trust::new(&[ann.trusted("ann", false), old.trusted("old", true)]);
    let text = statement().encode();
    let good = ann.record_of(&text);
    assert!(accept(&good.encode(), &trust).is_ok());
    let with = |signature: String| ResultRecord { signature, ..good.clone() }.encode();
    let line = |at: usize, change: &dyn Fn(&str) -> String| {
        let mut lines = lines(&good.signature);
        lines[at] = change(&lines[at]);
        with(lines.join("\n") + "\n")
    };
    let without = |at: usize| {
        let mut lines = lines(&good.signature);
        lines.remove(at);
        with(lines.join("\n") + "\n")
    };
    let mut cases = Cases::default();
    let mut add = |name, bytes, reason| cases.add(name, bytes, reason);
    add("not signed", with(String::new()), "Unsigned");
    add("a line end for a signature", with("\n".to_owned()), "NotASignature");
    add("a word for a signature", with("signed".to_owned()), "NotASignature");
    add("a key for a signature", with(ann.signer.verifying_key().to_file()), "NotASignature");
    add("a key that is not listed", eve.record_of(&text).encode(), "UnknownSigner");
    add("a key that is revoked", old.record_of(&text).encode(), "Revoked");
    let number = STANDARD.decode(&lines(&good.signature)[1]).unwrap()[2..10].to_vec();
    let forged = with_bytes(&eve.sign(&text, "a test"), |bytes| {
        bytes[2..10].copy_from_slice(&number);
    });
    add("another key under a trusted number", with(forged), "WrongSignature");
    let number_of_old = with_bytes(&good.signature, |bytes| {
        let number = old.signer.id().to_string();
        bytes[2..10].copy_from_slice(&u64::from_str_radix(&number, 16).unwrap().to_le_bytes());
    });
    add("a good signature under a revoked number", with(number_of_old), "Revoked");
    add("a signature of a file", with(ann.sign("something else\n", "a test")), "WrongSignature");
    add("a signature of nothing", with(ann.sign("", "a test")), "WrongSignature");
    let other = Statement { took_ms: 1, ..statement() }.encode();
    add("a signature of another statement", with(ann.sign(&other, "a test")), "WrongSignature");
    let line_end = ann.sign(&format!("{text}\n"), "a test");
    add("a signature of the text with a line end", with(line_end), "WrongSignature");
    let of_record = String::from_utf8(good.encode()).unwrap();
    add("a signature of the record", with(ann.sign(&of_record, "a test")), "WrongSignature");
    let digest = Digest::of(text.as_bytes()).to_string();
    add("a signature of a digest", with(ann.sign(&digest, "a test")), "WrongSignature");
    add(
        "another trusted comment",
        line(2, &|_| "trusted comment: another".to_owned()),
        "WrongSignature",
    );
    let elsewhere = lines(&ann.sign(&text, "another"));
    add(
        "the comment's signature of another file",
        line(3, &|_| elsewhere[3].clone()),
        "WrongSignature",
    );
    add(
        "zeros for the comment's signature",
        line(3, &|_| STANDARD.encode([0; 64])),
        "WrongSignature",
    );
    add(
        "the old algorithm",
        with(with_bytes(&good.signature, |bytes| bytes[1] = b'd')),
        "WrongSignature",
    );
    add(
        "no algorithm",
        with(with_bytes(&good.signature, |bytes| bytes[..2].fill(0))),
        "NotASignature",
    );
    add(
        "an unknown algorithm",
        with(with_bytes(&good.signature, |bytes| bytes[0] = b'R')),
        "NotASignature",
    );
    add(
        "zeros for a signature",
        with(with_bytes(&good.signature, |bytes| bytes[10..].fill(0))),
        "WrongSignature",
    );
    // The group's order added to the second half: the same signature where that is not looked at.
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let malleable = with_bytes(&good.signature, |bytes| {
        let mut carry = 0;
        for (byte, more) in bytes[42..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(more) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
    });
    add("a second form of the same signature", with(malleable), "WrongSignature");
    add(
        "a byte too few",
        with(with_bytes(&good.signature, |bytes| bytes.truncate(73))),
        "NotASignature",
    );
    add(
        "a byte too many",
        with(with_bytes(&good.signature, |bytes| bytes.push(0))),
        "NotASignature",
    );
    add("base64 cut short", line(1, &|line| line[..line.len() - 5].to_owned()), "NotASignature");
    add("base64 without its filling", line(1, &|line| line.replace('=', "")), "NotASignature");
    add(
        "base64 of the other alphabet",
        line(1, &|line| line.replacen('R', "_", 1)),
        "NotASignature",
    );
    add("blanks before the base64", line(1, &|line| format!(" {line}")), "NotASignature");
    add("blanks behind the base64", line(1, &|line| format!("{line} ")), "NotASignature");
    add(
        "a blank before the comment",
        line(2, &|line| line.replacen(": ", ":  ", 1)),
        "NotASignature",
    );
    add("no comment", without(0), "NotASignature");
    add("no signature line", without(1), "NotASignature");
    add("no trusted comment", without(2), "NotASignature");
    add("no signature of the comment", without(3), "NotASignature");
    add(
        "a short signature of the comment",
        line(3, &|_| STANDARD.encode([0; 31])),
        "NotASignature",
    );
    let one_more = |line: &str| STANDARD.encode([STANDARD.decode(line).unwrap(), vec![0]].concat());
    add("a long signature of the comment", line(3, &one_more), "NotASignature");
    add("an empty signature of the comment", line(3, &|_| String::new()), "NotASignature");
    add("one line more", with(format!("{}more\n", good.signature)), "NotASignature");
    add("two signatures", with(eve.sign(&text, "a test") + &good.signature), "NotASignature");
    add("no last line end", with(good.signature.trim_end().to_owned()), "NotASignature");
    add("two bytes a line end", with(good.signature.replace('\n', "\r\n")), "NotASignature");
    add("a byte order mark", with(format!("\u{feff}{}", good.signature)), "NotASignature");
    let escape = line(0, &|line| format!("{line}\u{1b}[2J"));
    add("an escape in the comment", escape, "NotASignature");
    let long = line(0, &|line| line.to_owned() + &"x".repeat(5000));
    add("a comment without end", long, "NotASignature");
    cases.check(&trust);
    assert!(cases.0.len() >= 44, "{}", cases.0.len());
    for (name, (bytes, _)) in &cases.0 {
        assert!(accept(bytes, &Trust::default()).is_err(), "{name}: with no key listed");
    }
    let nobody = accept(&good.encode(), &Trust::default()).unwrap_err();
    assert_eq!(kind(&nobody), "UnknownSigner");
}

#[test]
fn statements_that_a_trusted_key_signed() {
    let ann = TestKey::new();
    let signed = |statement: &Statement| ann.record_of(&statement.encode()).encode();
    let changed = |change: &dyn Fn(&mut Statement)| {
        let mut statement = statement();
        change(&mut statement);
        signed(&statement)
    };
    let mut cases = Cases::default();
    let mut add = |name, bytes, reason| cases.add(name, bytes, reason);
    let kind_of = |text: &'static str| changed(&move |s| text.clone_into(&mut s.kind));
    add("another type", kind_of("kiln/image/v1"), "Type");
    add("a later version of the type", kind_of("kiln/action-result/v2"), "Type");
    add("a type with a line end", kind_of("kiln/action-result/v1\n"), "Type");
    add("no type", kind_of(""), "Type");
    add("an older epoch", changed(&|s| s.epoch = 0), "Epoch");
    add("a newer epoch", changed(&|s| s.epoch = 2), "Epoch");
    add("no epoch like it", changed(&|s| s.epoch = u64::MAX), "Epoch");
    add("small blocks", changed(&|s| s.block_size = 512), "BlockSize");
    add("large blocks", changed(&|s| s.block_size = 65536), "BlockSize");
    add("no blocks", changed(&|s| s.block_size = 0), "BlockSize");
    add(
        "another namespace",
        changed(&|s| s.namespace = "pull-requests".parse().unwrap()),
        "Namespace",
    );
    add(
        "a namespace in capitals",
        changed(&|s| s.namespace = "Main".parse().unwrap()),
        "Namespace",
    );
    add("another action", changed(&|s| s.key = ActionKey(Digest::of(b"other"))), "Key");
    add("no states", changed(&|s| s.chain.clear()), "NoChain");
    add("a state twice", changed(&|s| s.chain[2].state = state(1)), "StateTwice");
    add("neighbours alike", changed(&|s| s.chain[1].state = state(1)), "StateTwice");
    let long = |len: usize| {
        let link = |n| Link { state: state(n as u64), virtual_size: 512, data: 0 };
        let chain = (0..len).map(link).collect();
        let described = (0..len).map(|_| Some(blob("x"))).collect();
        let text = Statement { chain, ..statement() }.encode();
        ResultRecord { layers: described, ..ann.record_of(&text) }.encode()
    };
    assert!(accept(&long(MAX_CHAIN), &ann.trust()).is_ok());
    add("too many states", long(MAX_CHAIN + 1), "LongChain");
    add("no disk", changed(&|s| s.chain[0].virtual_size = 0), "Size");
    add("half a sector", changed(&|s| s.chain[1].virtual_size += 256), "Size");
    add("too large a disk", changed(&|s| s.chain[2].virtual_size = (1 << 50) + 512), "Size");
    add("the largest number", changed(&|s| s.chain[2].virtual_size = u64::MAX), "Size");
    add("a disk that shrinks", changed(&|s| s.chain[2].virtual_size -= 512), "Shrinks");
    add("a base that is larger", changed(&|s| s.chain[0].virtual_size = 1 << 30), "Shrinks");
    add("more data than disk", changed(&|s| s.chain[0].data = (1 << 20) + 1), "Data");
    add("data without end", changed(&|s| s.chain[2].data = u64::MAX), "Data");
    let huge = BlobRef { id: BlobId::of(b"x"), len: MAX_BLOB + 1 };
    add("a huge manifest", changed(&|s| s.manifest = huge), "Blob");
    add("a huge report", changed(&|s| s.report = Some(huge)), "Blob");
    add("a huge list of packages", changed(&|s| s.sbom = Some(huge)), "Blob");
    add("a huge provenance", changed(&|s| s.provenance = Some(huge)), "Blob");
    let endless = BlobRef { len: u64::MAX, ..huge };
    add("a manifest without end", changed(&|s| s.manifest = endless), "Blob");
    add("an escape", changed(&|s| s.host[0] = "crun \u{1b}[2J".to_owned()), "Host");
    add("text from right to left", changed(&|s| s.host[0] = "crun \u{202e}1".to_owned()), "Host");
    add("two lines", changed(&|s| s.host[0] = "crun\n1".to_owned()), "Host");
    add("a long line", changed(&|s| s.host[0] = "x".repeat(201)), "Host");
    add("many programs", changed(&|s| s.host = vec!["x".to_owned(); 65]), "Host");
    let described = |layers: Vec<Option<BlobRef>>| {
        ResultRecord { layers, ..ann.record_of(&statement().encode()) }.encode()
    };
    let all = layers();
    add("no layers", described(Vec::new()), "Layers");
    add("too few layers", described(all[..2].to_vec()), "Layers");
    add("too many layers", described([&all[..], &all[..1]].concat()), "Layers");
    add("no layer above the base", described(vec![None, None, all[2]]), "NoLayer");
    add("no layer at all", described(vec![None; 3]), "NoLayer");
    add("a huge description", described(vec![None, Some(huge), all[2]]), "Blob");
    add("a huge description of the base", described(vec![Some(endless), all[1], all[2]]), "Blob");
    cases.check(&ann.trust());
    assert!(cases.0.len() >= 40, "{}", cases.0.len());
}

#[test]
fn texts_that_a_trusted_key_signed() {
    let ann = TestKey::new();
    let text = statement().encode();
    let signed = |text: &str| ann.record_of(text).encode();
    let put = |old: &str, new: &str| {
        assert!(text.contains(old), "{old}");
        signed(&text.replacen(old, new, 1))
    };
    let mut cases = Cases::default();
    let mut add = |name, bytes, reason| cases.add(name, bytes, reason);
    add("nothing", signed(""), "NotAStatement");
    add("null", signed("null"), "NotAStatement");
    add("a list", signed("[]"), "NotAStatement");
    add("an empty object", signed("{}"), "NotAStatement");
    add("a list of the values", signed("[\"kiln/action-result/v1\",\"main\"]"), "NotAStatement");
    add("an unknown member", put("{\"type\"", "{\"more\":1,\"type\""), "NotAStatement");
    add("an unknown member of a state", put("\"data\":", "\"more\":1,\"data\":"), "NotAStatement");
    add("an unknown member of a blob", put("\"len\":", "\"more\":1,\"len\":"), "NotCanonical");
    let other = format!("\"key\":\"{}\"", Digest::of(b"other"));
    add("a key twice", put("\"epoch\"", &format!("{other},\"epoch\"")), "NotAStatement");
    add("a key first", put("{\"type\"", &format!("{{{other},\"type\"")), "NotAStatement");
    add("an epoch twice", put("\"epoch\":1", "\"epoch\":1,\"epoch\":1"), "NotAStatement");
    add("a size twice", put("\"data\":0", "\"data\":0,\"data\":0"), "NotAStatement");
    add("a length twice", put("\"len\":8", "\"len\":8,\"len\":8"), "NotAStatement");
    add("no manifest", put("\"manifest\"", "\"manifesto\""), "NotAStatement");
    add("bytes behind it", signed(&format!("{text}{{}}")), "NotAStatement");
    add("a NUL behind it", signed(&format!("{text}\0")), "NotAStatement");
    add("a line end behind it", signed(&format!("{text}\n")), "NotCanonical");
    add("two bytes of a line end", signed(&format!("{text}\r\n")), "NotCanonical");
    add("a blank before it", signed(&format!(" {text}")), "NotCanonical");
    add("blanks in it", put(":1,", ": 1,"), "NotCanonical");
    add("a byte order mark", signed(&format!("\u{feff}{text}")), "NotAStatement");
    add(
        "members in another order",
        put("\"epoch\":1,\"block_size\":4096", "\"block_size\":4096,\"epoch\":1"),
        "NotCanonical",
    );
    add("a member that is null", put("\"sbom\"", "\"report\":null,\"sbom\""), "NotCanonical");
    add("a letter as an escape", put("\"main\"", "\"m\\u0061in\""), "NotCanonical");
    add("a stroke as an escape", put("kiln/action", "kiln\\/action"), "NotCanonical");
    add("a whole number with a point", put("\"epoch\":1", "\"epoch\":1.0"), "NotAStatement");
    add("a number with an exponent", put("\"epoch\":1", "\"epoch\":1e0"), "NotAStatement");
    add("a negative number", put("\"took_ms\":1234", "\"took_ms\":-1"), "NotAStatement");
    add("a negative zero", put("\"data\":0", "\"data\":-0"), "NotAStatement");
    add(
        "a huge number",
        put("\"took_ms\":1234", "\"took_ms\":18446744073709551616"),
        "NotAStatement",
    );
    add(
        "a number without end",
        put("\"took_ms\":1234", &format!("\"took_ms\":{}", "9".repeat(9999))),
        "NotAStatement",
    );
    add("a number as text", put("\"epoch\":1", "\"epoch\":\"1\""), "NotAStatement");
    add("a number with a zero", put("\"epoch\":1", "\"epoch\":01"), "NotAStatement");
    add("a flag as a number", put("\"impure\":false", "\"impure\":0"), "NotAStatement");
    let upper = key().to_string();
    add("a digest in capitals", put(&upper, &upper.to_uppercase()), "NotAStatement");
    add("a short digest", put(&upper, &upper[1..]), "NotAStatement");
    add("a digest with a blank", put(&upper, &format!(" {}", &upper[1..])), "NotAStatement");
    add("a namespace that climbs", put("\"main\"", "\"../main\""), "NotAStatement");
    add("a namespace with a stroke", put("\"main\"", "\"main/x\""), "NotAStatement");
    add("an empty namespace", put("\"main\"", "\"\""), "NotAStatement");
    add("a namespace with a NUL", put("\"main\"", "\"main\\u0000\""), "NotAStatement");
    add("a long namespace", put("\"main\"", &format!("\"{}\"", "m".repeat(33))), "NotAStatement");
    add("half a character", put("\"crun 1.8.1\"", "\"\\ud800\""), "NotAStatement");
    let deep = format!("\"host\":{}{}", "[".repeat(100_000), "]".repeat(100_000));
    add("a deep nesting", put("\"host\":[\"crun 1.8.1\"]", &deep), "NotAStatement");
    add("a comment", put("{\"type\"", "{/* */\"type\""), "NotAStatement");
    cases.check(&ann.trust());
    assert!(cases.0.len() >= 45, "{}", cases.0.len());
}

#[test]
fn records() {
    let ann = TestKey::new();
    let good = ann.record_of(&statement().encode());
    let text = String::from_utf8(good.encode()).unwrap();
    let put = |old: &str, new: &str| {
        assert!(text.contains(old), "{old}");
        text.replacen(old, new, 1).into_bytes()
    };
    let mut cases = Cases::default();
    let mut add = |name, bytes: Vec<u8>, reason| cases.add(name, bytes, reason);
    add("nothing", Vec::new(), "Shape");
    add("null", b"null".to_vec(), "Shape");
    add("a list", b"[]".to_vec(), "Shape");
    add("an empty object", b"{}".to_vec(), "Shape");
    add("a page", b"<!DOCTYPE html><title>502 Bad Gateway</title>".to_vec(), "Shape");
    add("zeros", vec![0; 4096], "Shape");
    add(
        "not UTF-8",
        put("crun", "cr\u{1}n").into_iter().map(|b| if b == 1 { 0xff } else { b }).collect(),
        "Shape",
    );
    add("UTF-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect(), "Shape");
    add("a byte order mark", [b"\xef\xbb\xbf", text.as_bytes()].concat(), "Shape");
    add("bytes behind it", [text.as_bytes(), b"{}"].concat(), "Shape");
    add("a NUL behind it", [text.as_bytes(), b"\0"].concat(), "Shape");
    add("itself behind it", text.repeat(2).into_bytes(), "Shape");
    add("a line end behind it", [text.as_bytes(), b"\n"].concat(), "NotCanonical");
    add("a blank before it", [b" ", text.as_bytes()].concat(), "NotCanonical");
    add("blanks in it", put("\"layers\":", "\"layers\": "), "NotCanonical");
    add("an unknown member", put("{\"statement\"", "{\"more\":1,\"statement\""), "Shape");
    add("a second statement", put("\"signature\"", "\"statement\":\"{}\",\"signature\""), "Shape");
    add("a first statement", put("{\"statement\"", "{\"statement\":\"{}\",\"statement\""), "Shape");
    add("a second signature", put("\"layers\"", "\"signature\":\"\",\"layers\""), "Shape");
    add("second layers", put("\"layers\"", "\"layers\":[],\"layers\""), "Shape");
    add("an unknown member of a blob", put("\"len\":3", "\"len\":3,\"more\":1"), "NotCanonical");
    add("a letter as an escape", put("a test", "\\u0061 test"), "NotCanonical");
    add("a control character that is none", put("a test", "a\ttest"), "Shape");
    let value: serde_json::Value = serde_json::from_str(&statement().encode()).unwrap();
    let inline = serde_json::json!({
        "statement": value, "signature": good.signature, "layers": good.layers,
    });
    add("a statement that is no text", inline.to_string().into_bytes(), "Shape");
    let signature = serde_json::to_string(&good.signature).unwrap();
    let reversed = put(&format!("\"signature\":{signature},"), "");
    let reversed = String::from_utf8(reversed).unwrap();
    let reversed = reversed.replacen('{', &format!("{{\"signature\":{signature},"), 1);
    add("members in another order", reversed.into_bytes(), "NotCanonical");
    add("a deep nesting", "[".repeat(1_000_000).into_bytes(), "Shape");
    let deep = format!("{{\"layers\":{}", "[".repeat(1_000_000));
    add("a deep nesting of layers", deep.into_bytes(), "Shape");
    let room = usize::try_from(MAX_RECORD).unwrap() - text.len();
    let largest = [text.as_bytes(), " ".repeat(room).as_bytes()].concat();
    add("one byte too long", [&largest[..], b" "].concat(), "TooLong");
    add("as long as allowed", largest, "NotCanonical");
    let swapped = {
        let mut statement = statement();
        statement.chain.swap(1, 2);
        ResultRecord { statement: statement.encode(), ..good.clone() }.encode()
    };
    add("parents swapped", swapped, "WrongSignature");
    let mut foreign = statement();
    foreign.chain[0].state = state(9);
    let foreign = ResultRecord { statement: foreign.encode(), ..good.clone() }.encode();
    add("a foreign base", foreign, "WrongSignature");
    let pure = Statement { impure: true, ..statement() }.encode();
    add(
        "another flag",
        ResultRecord { statement: pure, ..good.clone() }.encode(),
        "WrongSignature",
    );
    cases.check(&ann.trust());
    assert!(cases.0.len() >= 32, "{}", cases.0.len());
}

#[test]
fn a_good_record_at_another_place() {
    let ann = TestKey::new();
    let record = ann.record_of(&statement().encode()).encode();
    let accept = |key, namespace: &str| {
        ResultRecord::accept(&record, key, &namespace.parse().unwrap(), &ann.trust())
    };
    assert!(accept(key(), Namespace::default().as_str()).is_ok());
    assert_eq!(kind(&accept(key(), "pull-requests").unwrap_err()), "Namespace");
    let other = ActionKey(Digest::of(b"other"));
    assert_eq!(kind(&accept(other, "main").unwrap_err()), "Key");
}

#[test]
fn every_reason_reads_well() {
    let signer = "0123456789ABCDEF".parse().unwrap();
    let name = Some("Ann".to_owned());
    let hostile = Some("\u{1b}[2Jann\u{202e}".to_owned());
    let all = [
        Distrust::TooLong,
        Distrust::Shape,
        Distrust::NotCanonical,
        Distrust::Unsigned,
        Distrust::NotASignature,
        Distrust::UnknownSigner { signer },
        Distrust::Revoked { signer, name: name.clone() },
        Distrust::Revoked { signer, name: None },
        Distrust::WrongSignature { signer, name },
        Distrust::WrongSignature { signer, name: hostile },
        Distrust::NotAStatement,
        Distrust::Type,
        Distrust::Epoch { found: 7 },
        Distrust::Namespace { found: "pull-requests".parse().unwrap() },
        Distrust::Key { found: key() },
        Distrust::BlockSize { found: 512 },
        Distrust::NoChain,
        Distrust::LongChain { len: 5000 },
        Distrust::StateTwice { state: state(1) },
        Distrust::Size { state: state(1), size: 513 },
        Distrust::Shrinks { state: state(1) },
        Distrust::Data { state: state(1) },
        Distrust::Blob { len: u64::MAX },
        Distrust::Host,
        Distrust::Layers { states: 3, layers: 2 },
        Distrust::NoLayer { state: state(1) },
    ];
    let kinds: BTreeSet<String> = all.iter().map(kind).collect();
    assert_eq!(kinds.len(), all.len() - 2, "each once, but for the two with and without a name");
    let line =
        |distrust: &Distrust| format!("result of web/install on `team` is not used: {distrust}");
    let lines: Vec<String> = all.iter().map(line).collect();
    insta::assert_snapshot!(lines.join("\n"));
}
