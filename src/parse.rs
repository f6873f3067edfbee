//! Text to KDL tree: the only home of kdl's parser.
//!
//! It answers for any bytes with a tree or with mistakes, in time linear in their number. What the
//! nodes mean is `lower`'s.

mod guard;
mod scan;

use std::path::PathBuf;

pub use kdl::KdlDocument;

pub use self::guard::{MAX_DEPTH, MAX_NODES};
use crate::mistake::Mistake;
use crate::source::{FileId, Sources, Span};

/// Largest recipe file in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Stack for kdl's recursive parser: many times what `MAX_DEPTH` levels need in a debug build.
const STACK: usize = 16 << 20;

/// Adds a file to the sources and parses it.
///
/// # Errors
/// Every mistake found: bytes that are not UTF-8, a limit, or faults of syntax.
pub fn read(
    sources: &mut Sources,
    path: PathBuf,
    bytes: &[u8],
) -> (FileId, Result<KdlDocument, Vec<Mistake>>) {
    if bytes.len() > MAX_BYTES {
        let mut start = bytes.len().min(200);
        start = bytes[..start].iter().rposition(|&byte| byte == b'\n').unwrap_or(start);
        let file = sources.add(path, String::from_utf8_lossy(&bytes[..start]));
        let span = Span { file, offset: 0, len: 0 };
        let mistake = Mistake::at(
            span,
            "kiln::parse::too_large",
            "this file is larger than 1 MiB",
            "only its start is shown",
        );
        let help = "split the recipe, or move long texts into files that steps name";
        return (file, Err(vec![mistake.help(help)]));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let file = sources.add(path, text);
            (file, parse(file, text))
        }
        Err(fault) => {
            // The replacement characters of the shown text start where the first bad byte stood.
            let file = sources.add(path, String::from_utf8_lossy(bytes));
            let span = Span { file, offset: fault.valid_up_to(), len: '\u{fffd}'.len_utf8() };
            let message = "this file is not UTF-8";
            let mistake = Mistake::at(span, "kiln::parse::utf8", message, "not UTF-8 from here on");
            (file, Err(vec![mistake.help("save the file in UTF-8")]))
        }
    }
}

/// Parses a text of at most [`MAX_BYTES`]. Comments and what `/-` hides are not in the tree.
///
/// # Errors
/// Every fault of syntax.
pub fn parse(file: FileId, text: &str) -> Result<KdlDocument, Vec<Mistake>> {
    let plain = guard::check(file, text)?;
    let parsed = std::thread::scope(|scope| {
        let parser = std::thread::Builder::new()
            .name("parse".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, || KdlDocument::parse_v2(&plain));
        // A panic in kdl's parser is reported as a mistake: recipes may come from strangers.
        parser.ok()?.join().ok()
    });
    match parsed {
        Some(Ok(document)) => Ok(document),
        Some(Err(error)) => Err(from_kdl(file, &error)),
        None => {
            let span = Span { file, offset: 0, len: 0 };
            let message = "the parser could not run on this file";
            let mistake = Mistake::at(span, "kiln::parse::failed", message, "in this file");
            Err(vec![mistake.help("report the file as a bug of kiln")])
        }
    }
}

/// What kdl says, each place once: it reports one fault as several, one inside the other.
fn from_kdl(file: FileId, error: &kdl::KdlError) -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    for fault in &error.diagnostics {
        let span = Span { file, offset: fault.span.offset(), len: fault.span.len() };
        let known = mistakes.iter().flat_map(|mistake| &mistake.labels);
        if known.into_iter().any(|label| touches(label.span, span)) {
            continue;
        }
        let message = fault.message.as_deref().unwrap_or("this is not KDL").to_lowercase();
        let label = fault.label.as_deref().unwrap_or("here");
        mistakes.push(
            Mistake::at(span, "kiln::parse::syntax", message, label).maybe_help(fault.help.clone()),
        );
    }
    mistakes
}

fn touches(a: Span, b: Span) -> bool {
    a.offset <= b.offset + b.len && b.offset <= a.offset + a.len
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcome(text: &str) -> Result<KdlDocument, Vec<&'static str>> {
        parse(FileId(0), text).map_err(|list| list.iter().map(|mistake| mistake.code).collect())
    }

    fn names(text: &str) -> Vec<String> {
        let document = outcome(text).unwrap_or_else(|codes| panic!("{text:?}: {codes:?}"));
        document.nodes().iter().map(|node| node.name().value().to_owned()).collect()
    }

    #[test]
    fn what_is_hidden_is_not_in_the_tree_and_moves_nothing() {
        assert_eq!(names("/- a { b /- c { d } }\ne"), ["e"]);
        assert_eq!(names("a /- b = 1 /-{ x } // y\n/* /* { */ */ b; /-\nc; d"), ["a", "b", "d"]);
        let text = "a /-b=\"{\" c=1 /-{\n} /* } */ {\n  d \\ // on\n  2\n}";
        let document = outcome(text).unwrap();
        let node = &document.nodes()[0];
        assert_eq!(node.entries().len(), 1);
        let span = node.entries()[0].span();
        assert_eq!(&text[span.offset()..span.offset() + span.len()], "c=1");
        assert_eq!(node.children().unwrap().nodes()[0].entries()[0].value().as_integer(), Some(2));
    }

    #[test]
    fn every_form_of_string_is_understood() {
        for text in [
            "a \"{ /- \\\" \\u{7b} \\\\\"",
            "a #\"{\" \\ \"#",
            "a ##\"\"#\"##",
            "a \"\"\"\n  { \\\" \"\" \\\n   x\n\n    y\n  \"\"\"",
            "a #\"\"\"\n  { \\ \"\" \"\"\"\n  \\\n  \"\"\"#",
            "\"a\" \"b\"=c d=#true e=-1.5e3 f=0xfe_d +g -h .i",
            "\u{feff}a",
            "a{b;c{}}",
            "a \"\"\"\r\n\tx\r\n\t\"\"\" b",
        ] {
            assert!(outcome(text).is_ok(), "{text:?}: {:?}", outcome(text));
        }
    }

    #[test]
    fn hostile_shapes_end_in_a_mistake() {
        let nest = |open: &str, count: usize| open.repeat(count);
        for (text, code) in [
            (nest("a /-{", 18), "kiln::parse::unbalanced"),
            (nest("a {", 5_000), "kiln::parse::too_deep"),
            (format!("{}{}", nest("a {", 1_300), nest("}", 1_300)), "kiln::parse::too_deep"),
            (nest("/*", 4_000), "kiln::parse::too_deep"),
            (nest("/- a {", 100), "kiln::parse::too_deep"),
            (nest("}", 10_000), "kiln::parse::unbalanced"),
            (nest("a{}b ", 10_000), "kiln::parse::after_block"),
            (nest("a #\"\"\"\n", 100_000), "kiln::parse::unclosed_string"),
            (nest("a {\n=\"x \"}\n", 50_000), "kiln::parse::stray"),
            (nest("a {(})b\n", 50_000), "kiln::parse::type_annotation"),
            (nest("a\n", 20_001), "kiln::parse::too_many_nodes"),
            (nest("#", 900_000), "kiln::parse::keyword"),
            (nest("a \"", 300_000), "kiln::parse::no_space"),
            (nest("9", 900_000), "kiln::parse::number"),
        ] {
            let codes = outcome(&text).unwrap_err();
            assert!(codes.contains(&code), "{code}: {:?}", &codes[..codes.len().min(3)]);
        }
        // Deeply hidden things are harmless once they are closed.
        let closed = format!("{}{}", nest("a /-{ b; /- ", 30), nest("}", 30));
        let _ = outcome(&closed);
        assert_eq!(names(&format!("{}x{}", nest("a /-{", 60), nest("}", 60))), ["a"]);
    }

    #[test]
    fn bytes_are_bounded_and_text() {
        let mut sources = Sources::default();
        let mut code = |bytes: &[u8]| {
            let (_, result) = read(&mut sources, PathBuf::from("a.kdl"), bytes);
            result.err().map(|list| list[0].code)
        };
        assert_eq!(code(&vec![b' '; MAX_BYTES]), None);
        assert_eq!(code(&vec![b' '; MAX_BYTES + 1]), Some("kiln::parse::too_large"));
        assert_eq!(code(b"a \"\xff\""), Some("kiln::parse::utf8"));
    }

    /// Pieces that make texts in which much may go wrong.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "a", "b", " ", " ", "\n", "\"", "\"\"\"", "#", "#true", "{", "}", "{", "}", "=", ";",
            "/-", "/*", "*/", "//", "\\", "\\n", "1", "0x1", "-", ".", "(", ")", "\t", "\u{feff}",
            "ä", "\r\n", " x=1", " \"y\"", "\u{2028}", "e5", "_", "true", "/",
        ]);
        prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// The guard's promise: what it lets through, kdl's parser takes without a mistake, so that
        /// its recovery, which reads on inside strings, never runs.
        #[test]
        fn kdl_agrees_with_the_guard(text in pieces()) {
            if let Ok(plain) = guard::check(FileId(0), &text) {
                prop_assert_eq!(plain.len(), text.len());
                let parsed = KdlDocument::parse_v2(&plain);
                prop_assert!(parsed.is_ok(), "{:?} {:?} {:?}", text, plain, parsed);
            }
        }

        /// And the other way round for what people write: the guard refuses nothing that is KDL,
        /// and blanking changes no value.
        #[test]
        fn the_guard_agrees_with_kdl(text in pieces()) {
            let hostile = text.matches("/-").count() > 3;
            let odd = text.contains("/-") || text.contains('(') || text.contains('\\');
            if hostile || odd {
                return Ok(());
            }
            if let Ok(theirs) = KdlDocument::parse_v2(&text) {
                let ours = parse(FileId(0), &text);
                prop_assert!(ours.is_ok(), "{:?} {:?}", text, ours);
                let plain = |mut document: KdlDocument| {
                    document.clear_format_recursive();
                    document.to_string()
                };
                prop_assert_eq!(plain(ours.unwrap()), plain(theirs), "{:?}", text);
            }
        }
    }
}
