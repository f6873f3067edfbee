//! Random edits of a recipe: the cause that is told is the edit that was made.

use kiln::explain::{Event, Reason};
use proptest::prelude::*;

use super::space::TestSpace;
use super::why::why;

/// A recipe with these scripts; every other step has a name.
fn recipe(scripts: &[(usize, usize)]) -> String {
    let step = |(name, script): &(usize, usize)| match name % 2 {
        0 => format!("run-command \"script {script}\" name=\"s{name}\"\n"),
        _ => format!("run-command \"script {script}\"\n"),
    };
    let steps: String = scripts.iter().map(step).collect();
    format!("image \"web\" {{\nbase file \"base.img\"\n{steps}output \"raw\"\n}}\n")
}

#[derive(Debug, Clone)]
enum Edit {
    Change(prop::sample::Index),
    Insert(prop::sample::Index),
    Remove(prop::sample::Index),
    Move(prop::sample::Index, prop::sample::Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        index().prop_map(Edit::Change),
        index().prop_map(Edit::Insert),
        index().prop_map(Edit::Remove),
        (index(), index()).prop_map(|(from, to)| Edit::Move(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_cause_is_the_edit_that_was_made(edits in proptest::collection::vec(edit(), 1..6)) {
        let mut steps: Vec<(usize, usize)> = (0..5).map(|n| (n, 100 + n)).collect();
        let mut fresh = 200..;
        let space = TestSpace::new(&recipe(&steps));
        space.build();
        for edit in edits {
            let script = fresh.next().unwrap();
            let last = steps.len().max(1);
            // What is new or has changed, and in which place the first difference is.
            let (event, place) = match edit {
                Edit::Change(at) if !steps.is_empty() => {
                    let at = at.index(last);
                    steps[at].1 = script;
                    ("changed", at)
                }
                Edit::Insert(at) => {
                    let at = at.index(steps.len() + 1);
                    steps.insert(at, (script, script));
                    ("is new", at)
                }
                Edit::Remove(at) if !steps.is_empty() => {
                    let at = at.index(last);
                    steps.remove(at);
                    ("is gone", at)
                }
                Edit::Move(from, to) if steps.len() > 1 => {
                    let (from, to) = (from.index(last), to.index(last));
                    let step = steps.remove(from);
                    steps.insert(to, step);
                    if from == to { continue }
                    ("moved", from.min(to))
                }
                Edit::Change(_) | Edit::Remove(_) | Edit::Move(..) => continue,
            };
            space.recipe(&recipe(&steps));
            let why = why(&space, "web");
            // Base first, so a step's place is one higher.
            let ran = why.steps.iter().position(|step| step.reason.is_some()).unwrap();
            prop_assert_eq!(ran, place + 1);
            for step in why.steps.iter().filter(|step| step.fate == "run") {
                match step.reason.as_ref().unwrap() {
                    Reason::Changed { changes, .. } => {
                        prop_assert_eq!(event, "changed");
                        prop_assert_eq!(&changes[0].fields[0].name, "script");
                    }
                    Reason::Added => prop_assert_eq!(event, "is new"),
                    Reason::Moved { .. } => prop_assert_eq!(event, "moved"),
                    Reason::Below { causes, more: 0 } => {
                        prop_assert_eq!(causes.len(), 1);
                        let told = match causes[0].event {
                            Event::Changed => "changed",
                            Event::Added => "is new",
                            Event::Removed => "is gone",
                            Event::Moved { .. } => "moved",
                        };
                        prop_assert_eq!(told, event);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            space.build();
        }
    }
}
