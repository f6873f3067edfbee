//! Properties of the graph on random recipes; it knows the public functions and `linearize`.

use std::fmt::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::source::Sources;

fn images(text: &str) -> Vec<Image> {
    let mut sources = Sources::default();
    let (file, document) =
        crate::parse::read(&mut sources, PathBuf::from("recipes/t.kdl"), text.as_bytes());
    let (recipe, mistakes) = crate::lower::recipe(
        &document.unwrap(),
        file,
        &sources,
        &std::collections::BTreeMap::default(),
    );
    assert_eq!(mistakes, []);
    recipe.images
}

fn labels_in_order(node: &ImageNode) -> Vec<&str> {
    node.steps().map(|(label, _)| label).collect()
}

#[test]
fn the_first_written_of_the_free_steps_is_taken() {
    let text = r#"
        image "a" {
            base file "a.raw"
            touch "/1" name="one" after="three"
            touch "/2" name="two"
            selinux-relabel
            touch "/3" name="three"
            touch "/4"
            touch "/5" { after "one" "two"; }
        }"#;
    let graph = resolve(images(text)).unwrap();
    let order = labels_in_order(&graph.images[0]);
    assert_eq!(order, ["two", "three", "one", "touch#4", "touch#5"]);
    let codes: Vec<_> = graph.lints.iter().map(|lint| lint.code).collect();
    assert_eq!(codes, ["kiln::lint::moved_step", "kiln::lint::relabel_not_last"]);
}

#[test]
fn images_stand_behind_their_bases() {
    let text = r#"
        image "web" { base image "golden"; }
        image "tiny" { base file "a.raw"; }
        image "golden" { base file "a.raw"; }
        image "db" { base image "golden"; }"#;
    let graph = resolve(images(text)).unwrap();
    let names: Vec<_> = graph.images.iter().map(|node| node.image.name.value.as_str()).collect();
    assert_eq!(names, ["tiny", "golden", "web", "db"]);
    assert_eq!(graph.images[2].base, Some(1));
    assert_eq!(graph.closure(&["web"]).unwrap(), [1, 2]);
    assert_eq!(graph.closure::<&str>(&[]).unwrap(), [0, 1, 2, 3]);
    assert_eq!(graph.closure(&["wbe"]).unwrap_err().help, "did you mean `web`?");
}

/// The rule as it is written in the book, in quadratic time.
fn naive(targets: &[Vec<usize>]) -> Vec<usize> {
    let mut taken: Vec<usize> = Vec::new();
    loop {
        let free = |place: &usize| {
            !taken.contains(place) && targets[*place].iter().all(|target| taken.contains(target))
        };
        let Some(next) = (0..targets.len()).find(free) else { return taken };
        taken.push(next);
    }
}

/// A random acyclic graph: things in a random hidden order, each waiting for some before it.
fn acyclic() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (1_usize..14).prop_flat_map(|count| {
        let order = Just((0..count).collect::<Vec<_>>()).prop_shuffle();
        let edges = proptest::collection::vec((0..count, 0..count), 0..24);
        (order, edges).prop_map(move |(order, edges)| {
            let mut targets = vec![Vec::new(); count];
            for (a, b) in edges {
                if a != b {
                    targets[order[a.max(b)]].push(order[a.min(b)]);
                }
            }
            targets
        })
    })
}

fn recipe(targets: &[Vec<usize>]) -> String {
    let mut text = "image \"i\" {\n base file \"a.raw\"\n".to_owned();
    for (place, targets) in targets.iter().enumerate() {
        let after: String =
            targets.iter().fold(String::new(), |after, target| after + &format!(" s{target}"));
        let block = if after.is_empty() { String::new() } else { format!(" {{ after{after} }}") };
        writeln!(text, " touch \"/{place}\" name=s{place}{block}").unwrap();
    }
    text + " selinux-relabel\n}\n"
}

proptest! {
    #[test]
    fn the_order_is_the_rule(targets in acyclic()) {
        let graph = resolve(images(&recipe(&targets))).unwrap();
        let order = &graph.images[0].order;
        prop_assert_eq!(order, &naive(&targets));
        let place = |step: usize| order.iter().position(|&at| at == step).unwrap();
        for (step, targets) in targets.iter().enumerate() {
            prop_assert!(targets.iter().all(|&target| place(target) < place(step)));
        }
        let again = resolve(images(&recipe(&targets))).unwrap();
        prop_assert_eq!(&again.images[0].order, order);
        prop_assert_eq!(again.lints, graph.lints);
    }

    #[test]
    fn a_back_edge_is_refused(targets in acyclic(), pick: prop::sample::Index) {
        let mut targets = targets;
        let edges: Vec<_> = targets
            .iter()
            .enumerate()
            .flat_map(|(from, targets)| targets.iter().map(move |&to| (from, to)))
            .collect();
        prop_assume!(!edges.is_empty());
        let (from, to) = edges[pick.index(edges.len())];
        targets[to].push(from);
        let mistakes = resolve(images(&recipe(&targets))).unwrap_err();
        prop_assert_eq!(mistakes.len(), 1);
        prop_assert_eq!(mistakes[0].code, "kiln::graph::step_cycle");
        prop_assert!(mistakes[0].labels.len() >= 2);
    }
}
