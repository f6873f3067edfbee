//! The reference pages of the book against the code: no word and no diagnostic without its line.
//!
//! Knows the table of words, the pages as text, and how codes look in the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kiln::lower::table::{RECIPE, SCRUB_ITEMS, STEPS};
use walkdir::WalkDir;

fn page(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join("book/src/reference").join(name)).expect("a page of the book")
}

#[test]
fn every_step_has_its_section() {
    let page = page("steps.md");
    let written: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`')).collect();
    let known: Vec<_> = STEPS.iter().map(|word| word.keyword).collect();
    assert_eq!(written, known);
    for property in STEPS.iter().flat_map(kiln::lower::table::Word::properties) {
        let shown = [format!("`{}", property.name), format!(" {}=", property.name)];
        assert!(shown.iter().any(|text| page.contains(text)), "{}", property.name);
    }
}

#[test]
fn every_other_word_is_in_the_recipe_page() {
    let page = page("recipe.md");
    for word in RECIPE[0].children().filter(|word| word.form.is_some()) {
        for property in word.properties() {
            assert!(page.contains(&format!("`{}", property.name)), "{}", property.name);
        }
        for child in word.children() {
            assert!(page.contains(&format!("`{} ", child.keyword)), "{}", child.keyword);
        }
    }
    for item in SCRUB_ITEMS {
        assert!(page.contains(&format!("`{item}`")), "{item}");
    }
}

#[test]
fn every_word_of_user_data_and_templates_has_its_page() {
    for (word, name) in [("user-data", "user-data.md"), ("heat", "heat.md")] {
        let page = page(name);
        let word = RECIPE.iter().find(|known| known.keyword == word).expect("a word");
        let mut open = vec![word];
        while let Some(word) = open.pop() {
            let shown = [" ", "`", " …"].map(|end| format!("`{}{end}", word.keyword));
            assert!(shown.iter().any(|text| page.contains(text)), "{}", word.keyword);
            for property in word.properties() {
                let shown = [format!("`{}", property.name), format!("{}=", property.name)];
                assert!(shown.iter().any(|text| page.contains(text)), "{}", property.name);
            }
            open.extend(word.children());
        }
    }
}

#[test]
fn every_code_is_explained() {
    let page = page("diagnostics.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut used = BTreeSet::new();
    for entry in WalkDir::new(root).into_iter().filter_map(Result::ok) {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        // In quotes, or as the argument of a `#[diagnostic]`.
        for rest in text.split("\"kiln::").skip(1).chain(text.split("code(kiln::").skip(1)) {
            let code = rest.split(['"', ')']).next().unwrap_or_default();
            let name = code.split_once("::").map_or("", |(_, name)| name);
            if !name.is_empty() && !name.ends_with('_') {
                used.insert(format!("kiln::{code}"));
            }
        }
    }
    let explained: BTreeSet<String> = page
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(used, explained);
}
