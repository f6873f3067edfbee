//! Properties of the language: what may not change a recipe's meaning, and what may not break.
//!
//! Knows recipes as text and what they lower to, not how.

use std::fmt::Write as _;
use std::path::PathBuf;

use kiln::graph::BuildGraph;
use kiln::mistake::Mistakes;
use kiln::recipe::Base;
use kiln::source::Sources;
use kiln::workspace::compile;
use proptest::prelude::*;

fn compiled(text: &str) -> Result<BuildGraph, String> {
    let mut sources = Sources::default();
    let files = [(PathBuf::from("recipes/a.kdl"), text.as_bytes().to_vec())];
    match compile(&mut sources, files) {
        Ok(compiled) => Ok(compiled.graph),
        Err(mistakes) => {
            let report = Mistakes::new(mistakes, &sources);
            let mut shown = String::new();
            let handler = miette::GraphicalReportHandler::new_themed(
                miette::GraphicalTheme::unicode_nocolor(),
            );
            handler.render_report(&mut shown, &report).expect("a report can be shown");
            Err(shown)
        }
    }
}

/// Everything that a recipe says, without places.
fn meaning(graph: &BuildGraph) -> String {
    let mut text = String::new();
    for node in &graph.images {
        let image = &node.image;
        writeln!(text, "{} {:?} {:?}", image.name.value, node.base, image.scrub).unwrap();
        match &image.base.value {
            Base::File(base) => {
                writeln!(text, "{} {:?}", base.file.path.display(), base.format).unwrap();
            }
            Base::Bootstrap(base) => writeln!(text, "{base:?}").unwrap(),
            Base::Image(base) => writeln!(text, "{:?}", base.value).unwrap(),
            Base::Fetch(base) => writeln!(text, "{base:?}").unwrap(),
            Base::Scratch(base) => writeln!(text, "{base:?}").unwrap(),
        }
        for (label, step) in node.steps() {
            let kind = step.kind.map_files(|file| Ok::<_, ()>(file.path.clone())).unwrap();
            let (network, timeout, refresh) = (step.network, step.timeout, step.refresh);
            writeln!(text, "{label} {kind:?} {network} {timeout:?} {refresh:?}").unwrap();
        }
        for output in &image.outputs {
            writeln!(text, "{:?} {}", output.format, output.file(&image.name.value).display())
                .unwrap();
        }
    }
    text
}

/// A step as words: its name, and its entries as they are written.
fn steps() -> impl Strategy<Value = Vec<Vec<String>>> {
    let path = "/[a-z]{1,5}(/[a-z{}]{1,4}){0,2}";
    let quoted = |text: String| format!("{text:?}");
    let step = prop_oneof![
        proptest::collection::vec("[a-z][a-z0-9+]{1,8}", 1..4).prop_map(move |names| {
            let names = names.into_iter().map(quoted);
            std::iter::once("install".to_owned()).chain(names).collect()
        }),
        (path, "[ -~]{0,12}").prop_map(move |(path, text)| {
            vec![
                "write".to_owned(),
                quoted(path),
                quoted(text.replace('\'', "")),
                "mode=\"0600\"".into(),
            ]
        }),
        (path, any::<bool>()).prop_map(move |(path, tree)| {
            let tree = format!("recursive=#{tree}");
            vec!["chown".to_owned(), "\"a:b\"".to_owned(), quoted(path), tree]
        }),
        Just(vec!["update".to_owned(), "refresh=\"24h\"".to_owned(), "timeout=\"90s\"".to_owned()]),
        Just(vec!["password".to_owned(), "\"root\"".to_owned(), "locked=#true".to_owned()]),
        Just(vec!["run".to_owned(), "\"a.sh\"".to_owned(), "\"x y\"".to_owned()]),
    ];
    proptest::collection::vec(step, 0..8)
}

/// The recipe with given text between its words, before its lines, and behind them.
fn printed(steps: &[Vec<String>], space: &str, before: &str, end: &str) -> String {
    let mut text =
        format!("{before}image{space}web{space}{{\nbase{space}file{space}\"a.raw\"{end}");
    for (place, step) in steps.iter().enumerate() {
        let after = if place > 0 { format!("{space}after=s{}", place - 1) } else { String::new() };
        write!(text, "{before}{}{space}name=s{place}{after}{end}", step.join(space)).unwrap();
    }
    text + "output qcow2" + end + "}" + end
}

const VALID: &str = r##"
// A recipe with a little of everything.
image "web" {
    base bootstrap "bookworm" size="4G" variant="minbase" refresh="24h" {
        package "vim" "curl"; mirror "http://deb.debian.org/debian"
    }
    install "nginx" name="web" after="tools" refresh="24h" timeout="10m" recommends=#false
    run "a.sh" "x" network=#true name="tools"
    run-command #"""
        #!/bin/sh
        echo "{ /* " \
        """# /* a /* nested */ one */ network=#false
    write "/etc/motd" """
        a { b
          c \u{e4} \" \
        d
        """ mode="0644" owner="root" newline=#false
    /- upload "a" "/b" { c /-d e=1; }
    chown ":www-data" "/srv" /-recursive=#true
    link "../x" /- "/y" "/z" { after "web" "tools"; }
    scrub { keep "logfiles" "machine-id"; }
    password "root" locked=#true; ssh-inject "a" file="k.pub" \ // on the next line
        name="key"
    selinux-relabel
    output "qcow2" compress=#true path="dist/web.qcow2"
}
"##;

/// A change to a text: where, how much goes, and what comes.
fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, String)>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "\"",
            "\"\"\"",
            "#",
            "{",
            "}",
            "=",
            ";",
            "/-",
            "/*",
            "*/",
            "//",
            "\\",
            "\n",
            " ",
            "(",
            "0",
            "-",
            "#true",
            "#null",
            "name=\"web\"",
            "after=\"key\"",
            "image",
            "base",
            "\u{feff}",
            "ä",
            "\0",
            "\"\"",
            "1e999",
            "999999999999999999999999",
            "base image \"web\"",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..12, piece), 1..5)
}

#[test]
fn the_valid_recipe_is_valid() {
    let graph = compiled(VALID).unwrap_or_else(|report| panic!("{report}"));
    insta::assert_snapshot!("the_valid_recipe", meaning(&graph));
}

proptest! {
    #[test]
    fn formatting_and_comments_mean_nothing(steps in steps()) {
        let plain = compiled(&printed(&steps, " ", "", "\n"));
        let plain = plain.unwrap_or_else(|report| panic!("{report}"));
        for (space, before, end) in [
            ("  \t", "    ", " // why\n\n"),
            (" /* } */ ", "/- install \"x\" { y /-z; }\n", ";"),
            (" \\\n ", "/* a\n{ */ ", " \r\n"),
            (" /-gone=1 ", "", " ;"),
        ] {
            let text = printed(&steps, space, before, end);
            let other = compiled(&text).unwrap_or_else(|report| panic!("{report}\n{text}"));
            prop_assert_eq!(meaning(&plain), meaning(&other));
        }
    }

    #[test]
    fn no_edit_makes_a_panic(edits in edits()) {
        let mut text = VALID.to_owned();
        for (place, gone, piece) in edits {
            let start = text.floor_char_boundary(place.index(text.len() + 1));
            let end = text.ceil_char_boundary((start + gone).min(text.len()));
            text.replace_range(start..end, &piece);
        }
        if let Ok(graph) = compiled(&text) {
            meaning(&graph);
        }
    }

    #[test]
    fn no_bytes_make_a_panic(bytes: Vec<u8>) {
        let mut sources = Sources::default();
        let _ = compile(&mut sources, [(PathBuf::from("a.kdl"), bytes.clone())]);
        let _ = compile(&mut sources, [(PathBuf::from("kiln.kdl"), bytes)]);
    }
}

#[test]
fn the_report_on_a_hostile_file_is_small() {
    for text in
        ["a \"".repeat(300_000), "x ".repeat(400_000), "9".repeat(900_000), "(ä".repeat(300_000)]
    {
        let report = compiled(&text).expect_err("a mistake");
        assert!(report.len() < 200_000, "{} bytes", report.len());
    }
}

#[test]
fn the_recipes_of_this_repository_are_right() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = kiln::workspace::load(root).unwrap_or_else(|error| panic!("{error:?}"));
    assert!(workspace.lints().is_empty(), "{:?}", workspace.graph.lints);
    for node in &workspace.graph.images {
        for step in &node.image.steps {
            let found: Result<_, std::path::PathBuf> = step.kind.map_files(|file| {
                let path = workspace.local(file);
                if path.exists() { Ok(()) } else { Err(path) }
            });
            assert!(found.is_ok(), "{found:?} is not there");
        }
    }
}
