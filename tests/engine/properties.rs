//! Random workspaces: plans are the same every time, the relabel is the last writer, and what an
//! edited workspace builds is what a fresh store would.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::prelude::*;

use super::fake::RELABEL;
use super::space::TestSpace;

/// A step: which script, and which steps of its image it wants before it.
#[derive(Debug, Clone)]
struct Step {
    script: u8,
    online: bool,
    after: Vec<prop::sample::Index>,
    relabel: bool,
}

/// An image: what it stands on, where there is something before it, and its steps.
#[derive(Debug, Clone)]
struct Image {
    base: Option<prop::sample::Index>,
    steps: Vec<Step>,
}

fn step() -> impl Strategy<Value = Step> {
    let after = proptest::collection::vec(any::<prop::sample::Index>(), 0..3);
    (0..6u8, prop::bool::weighted(0.2), after, prop::bool::weighted(0.1))
        .prop_map(|(script, online, after, relabel)| Step { script, online, after, relabel })
}

fn image() -> impl Strategy<Value = Image> {
    (any::<Option<prop::sample::Index>>(), proptest::collection::vec(step(), 0..5))
        .prop_map(|(base, steps)| Image { base, steps })
}

fn images() -> impl Strategy<Value = Vec<Image>> {
    proptest::collection::vec(image(), 1..4)
}

/// The recipe's text. Edges lead to any other step in a fixed order of the steps, backwards or
/// forwards in the text, and so make no cycle.
fn text(images: &[Image]) -> String {
    let mut text = String::new();
    for (number, image) in images.iter().enumerate() {
        writeln!(text, "image \"i{number}\" {{").unwrap();
        match image.base {
            Some(base) if number > 0 => {
                writeln!(text, "    base image \"i{}\"", base.index(number)).unwrap();
            }
            _ => text.push_str("    base file \"base.img\"\n"),
        }
        // Its place in this order, which is not that of the text.
        let rank = |at: usize| (at * 7 + 3) % 11;
        let mut relabelled = false;
        for (at, step) in image.steps.iter().enumerate() {
            let after: BTreeSet<usize> = step
                .after
                .iter()
                .map(|other| other.index(image.steps.len()))
                .filter(|&other| rank(other) < rank(at))
                .collect();
            let script = step.script;
            write!(text, "    run-command \"script {script}\" name=\"s{at}\"").unwrap();
            if step.online {
                text.push_str(" network=#true");
            }
            if !after.is_empty() {
                let names: Vec<_> = after.iter().map(|other| format!("\"s{other}\"")).collect();
                write!(text, " {{ after {}; }}", names.join(" ")).unwrap();
            }
            text.push('\n');
            if step.relabel && !relabelled {
                relabelled = true;
                text.push_str("    selinux-relabel\n");
            }
        }
        text.push_str("    output \"raw\"\n}\n");
    }
    text
}

/// What each image holds, without what differs from run to run.
fn contents(space: &TestSpace, images: &[Image]) -> BTreeMap<usize, Vec<String>> {
    (0..images.len())
        .map(|number| {
            let content = space.content(&format!("i{number}"));
            (number, content.tasks().into_iter().map(str::to_owned).collect())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_plan_is_the_same_every_time(images in images()) {
        let text = text(&images);
        let (one, other) = (TestSpace::new(&text), TestSpace::new(&text));
        prop_assert_eq!(one.keys(), other.keys());
        prop_assert_eq!(one.plan(), one.plan());
        prop_assert_eq!(one.plan(), other.plan());
        let workspace = one.workspace();
        let actions = one.actions(&workspace);
        for chain in &actions.chains {
            // The order is total, and the seal stands on its end.
            let mut below = None;
            for &node in chain.nodes.iter().chain([&chain.seal]) {
                prop_assert_eq!(actions.nodes[node].parent, below);
                below = Some(node);
            }
            prop_assert!(actions.nodes.iter().all(|node| node.parent != Some(chain.seal)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_relabel_is_the_last_writer_of_every_image(images in images(), jobs in 1..4usize) {
        let mut space = TestSpace::new(&text(&images));
        space.options.jobs = jobs;
        let planned: BTreeSet<_> = space.plan().into_keys().collect();
        let ran = space.ran();
        // Exactly what was planned runs, each action once, and what it stands on before it.
        prop_assert_eq!(&ran.iter().cloned().collect::<BTreeSet<_>>(), &planned);
        prop_assert_eq!(ran.len(), planned.len());
        space.check_states();
        let actions = space.actions(&space.workspace());
        let at = |name: &str| ran.iter().position(|ran| ran == name);
        for node in &actions.nodes {
            if let Some(parent) = node.parent {
                prop_assert!(at(&actions.nodes[parent].name) < at(&node.name));
            }
        }
        for (number, tasks) in contents(&space, &images) {
            let seals: Vec<_> =
                (0..tasks.len()).filter(|&at| tasks[at].starts_with(RELABEL)).collect();
            prop_assert_eq!(seals, [tasks.len() - 1], "image i{}", number);
        }
        prop_assert_eq!(space.build().ran, Vec::<String>::new());
    }

    #[test]
    fn an_edited_workspace_builds_what_a_fresh_store_would(
        edits in proptest::collection::vec(images(), 2..4),
    ) {
        let space = TestSpace::new("");
        for images in &edits {
            space.recipe(&text(images));
            space.build();
        }
        space.check_states();
        let last = edits.last().unwrap();
        let fresh = TestSpace::new(&text(last));
        fresh.build();
        prop_assert_eq!(contents(&space, last), contents(&fresh, last));
        prop_assert!(fresh.keys() == space.keys());
    }
}
