//! Two results of one key: both stay, and nothing ever stands on the wrong one.

use kiln::digest::StateId;
use kiln::disk::state::{DiskState, StateError};
use kiln::plan::Fate;

use super::space::TestSpace;

const RECIPE: &str = r#"image "web" {
    base file "base.img"
    run-command "one"
    run-command "two"
    run-command "three"
    output "raw"
}"#;

/// A space whose store holds what two machines built, and the other machine's space.
fn both() -> (TestSpace, TestSpace) {
    let (here, there) = (TestSpace::new(RECIPE), TestSpace::new(RECIPE));
    here.build();
    there.build();
    assert_eq!(here.keys(), there.keys());
    here.take_over(&there.store);
    (here, there)
}

fn states(space: &TestSpace, name: &str) -> Vec<StateId> {
    let key = space.keys()[name];
    space.results().of_action(key).iter().map(|result| result.state).collect()
}

fn cached(space: &TestSpace, name: &str) -> StateId {
    match space.plan().get(name) {
        Some(Fate::Cached(state)) => *state,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn two_runs_of_one_key_differ_and_both_stay() {
    let (here, there) = both();
    assert_eq!(states(&here, "web/base").len(), 1, "a base is its bytes");
    for name in ["web/run-command", "web/run-command#2", "web/run-command#3", "web/seal"] {
        let twins = states(&here, name);
        assert_eq!(twins.len(), 2, "{name}");
        assert!(twins.contains(&states(&there, name)[0]));
    }
    here.check_states();
    assert_ne!(here.content("web"), there.content("web"));
    assert_eq!(here.content("web").tasks(), there.content("web").tasks());
}

#[test]
fn a_layer_over_the_other_twin_does_not_open() {
    let (here, there) = both();
    let store = here.open();
    let results = store.results().unwrap();
    let own = [&here, &there].map(|space| space.content("web").nonces());
    let chain = |nonces: &[u64], name: &str| {
        let mut states = states(&here, name).into_iter();
        let state = states.find(|&state| nonces.starts_with(&here.state(state).nonces()));
        store.chain(&results, state.unwrap(), None).unwrap()
    };
    for (upper, lower) in [(&own[0], &own[1]), (&own[1], &own[0])] {
        let mut mixed = chain(lower, "web/run-command");
        let child = chain(upper, "web/run-command#2").pop().unwrap();
        mixed.push(child.clone());
        match DiskState::open(&mixed).err() {
            Some(StateError::Parent { state }) => assert_eq!(state, child.state),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_twin_of_the_last_build_is_taken() {
    let (here, there) = both();
    for (space, change) in [(&here, "drei"), (&there, "trois")] {
        let own = space.content("web").nonces();
        let store = if change == "drei" { &there } else { &here };
        space.take_over(&store.store);
        space.recipe(&RECIPE.replace("three", change));
        let taken = cached(space, "web/run-command#2");
        assert_eq!(space.state(taken).nonces(), own[..2]);
        assert_eq!(space.ran(), ["web/run-command#3", "web/seal"]);
        assert_eq!(space.content("web").nonces()[..2], own[..2]);
    }
}

#[test]
fn else_the_twin_with_the_smallest_state_is_taken() {
    let (here, there) = both();
    there.take_over(&here.store);
    let mut chosen = Vec::new();
    for space in [&here, &there] {
        space.forget_last_builds();
        space.recipe(&RECIPE.replace("three", "drei"));
        let taken = cached(space, "web/run-command#2");
        assert_eq!(Some(taken), states(space, "web/run-command#2").into_iter().min());
        space.build();
        assert_eq!(space.content("web").nonces()[..2], space.state(taken).nonces());
        space.check_states();
        chosen.push(taken);
    }
    assert_eq!(chosen[0], chosen[1], "whatever the order in the journal");
}

#[test]
fn what_is_built_on_either_twin_reads_what_was_written_on_it() {
    let (here, _) = both();
    let store = here.open();
    let names = ["web/run-command", "web/run-command#2", "web/run-command#3"];
    for (depth, name) in (1..).zip(names) {
        for (which, wanted) in states(&here, name).into_iter().enumerate() {
            // The other one is away while a new end is built on this one.
            let all = here.results();
            let key = here.keys()[name];
            let others: Vec<_> =
                all.of_action(key).iter().filter(|result| result.state != wanted).collect();
            assert_eq!(others.len(), 1);
            for other in &others {
                store.drop_state(other.state).unwrap();
            }
            here.recipe(&match depth {
                1 => RECIPE.replace("two", &format!("zwei {which}")),
                2 => RECIPE.replace("three", &format!("drei {which}")),
                _ => RECIPE.replace("output", &format!("run-command \"end {which}\"\noutput")),
            });
            here.build();
            assert_eq!(here.content("web").nonces()[..depth], here.state(wanted).nonces());
            // It comes back, with all that stands on it.
            for other in others {
                store.record(all.placement(other.state), other).unwrap();
            }
            here.recipe(RECIPE);
            here.check_states();
        }
    }
}

#[test]
fn a_twin_that_is_gone_gives_way_to_the_other() {
    let (here, there) = both();
    let own = here.content("web").nonces();
    let [mine] = states(&here, "web/run-command")
        .into_iter()
        .filter(|&state| here.state(state).nonces() == own[..1])
        .collect::<Vec<_>>()[..]
    else {
        panic!("two twins");
    };
    let index = here.results().placement(mine).unwrap().index;
    here.open().objects().remove(index).unwrap();
    here.recipe(&RECIPE.replace("three", "drei"));
    assert_eq!(here.build().ran, ["web/run-command#3", "web/seal"]);
    assert_eq!(here.content("web").nonces()[..2], there.content("web").nonces()[..2]);
}
