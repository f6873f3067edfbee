//! The order of steps: `after` resolved, and the one rule of linearization.
//!
//! The rule, which belongs to the key schema's version: repeatedly take, among the steps whose
//! `after` targets have been taken, the one written first. Images are only seen one at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{cycle, keyword_span, step_places};
use crate::mistake::{Mistake, nearest};
use crate::recipe::{Image, StepKind};
use crate::source::Span;

/// The order of execution of an image's steps, without `selinux-relabel`.
pub(super) fn resolve(
    image: &Image,
    labels: &[String],
    mistakes: &mut Vec<Mistake>,
    lints: &mut Vec<Mistake>,
) -> Vec<usize> {
    let places = step_places(&image.steps);
    let mut targets: Vec<Vec<usize>> = vec![Vec::new(); image.steps.len()];
    let mut spans: Vec<Vec<Span>> = vec![Vec::new(); image.steps.len()];
    let before = mistakes.len();
    for (place, step) in image.steps.iter().enumerate() {
        for after in &step.after {
            let name = after.value.as_str();
            match places.get(name) {
                None => mistakes.push(unknown(image, name, after.span, &places)),
                Some(&target) if target == place => mistakes.push(
                    Mistake::at(
                        after.span,
                        "kiln::graph::after_itself",
                        format!("`{name}` waits for itself"),
                        "its own name",
                    )
                    .help("remove this `after`"),
                ),
                Some(&target) if is_relabel(image, target) => {
                    let message = format!("nothing can come after `{name}`");
                    mistakes.push(
                        Mistake::at(after.span, "kiln::graph::after_relabel", message, "here")
                            .and(keyword_span(&image.steps[target]), "the relabel is always last")
                            .help("remove this `after`; the seal relabels when every step is done"),
                    );
                }
                Some(&target) => {
                    targets[place].push(target);
                    spans[place].push(after.span);
                }
            }
        }
    }
    let edges: Vec<_> = targets
        .iter()
        .enumerate()
        .flat_map(|(place, targets)| targets.iter().map(move |&target| (place, target)))
        .collect();
    for found in cycle::find(image.steps.len(), &edges) {
        mistakes.push(draw(&found, labels, &targets, &spans));
    }
    if mistakes.len() > before {
        return Vec::new();
    }
    let order: Vec<usize> =
        linearize(&targets).into_iter().filter(|&place| !is_relabel(image, place)).collect();
    lints.extend(moved(image, labels, &order, &targets, &spans));
    order
}

fn is_relabel(image: &Image, place: usize) -> bool {
    matches!(image.steps[place].kind, StepKind::SelinuxRelabel)
}

fn unknown(
    image: &Image,
    name: &str,
    span: Span,
    places: &std::collections::HashMap<&str, usize>,
) -> Mistake {
    let mut known: Vec<&str> = places.keys().copied().collect();
    known.sort_unstable();
    let unnamed =
        image.steps.iter().find(|step| step.name.is_none() && step.kind.keyword() == name);
    let help = match (nearest(name, known.iter().copied()), unnamed) {
        (_, Some(_)) => format!("name the step that is meant: `{name} … name=\"…\"`"),
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, _) if known.is_empty() => {
            "no step of this image has a name yet: add `name=\"…\"` to the one that is meant"
                .to_owned()
        }
        (None, _) => format!("the named steps of this image are: {}", known.join(", ")),
    };
    let message = format!("no step of the image `{}` is called `{name}`", image.name.value);
    Mistake::at(span, "kiln::graph::unknown_step", message, "not known").help(help)
}

fn draw(
    found: &cycle::Cycle,
    labels: &[String],
    targets: &[Vec<usize>],
    spans: &[Vec<Span>],
) -> Mistake {
    let ring = &found.ring;
    // Where a member names the next one; it does, as the two are neighbours in the graph.
    let place_of = |from: usize, to: usize| {
        targets[from].iter().position(|&target| target == to).map(|at| spans[from][at])
    };
    let following = ring.iter().skip(1).chain(ring.first());
    let ring_spans: Vec<Span> =
        ring.iter().zip(following).filter_map(|(&from, &to)| place_of(from, to)).collect();
    let names: Vec<&str> = ring.iter().map(|&place| labels[place].as_str()).collect();
    let mut mistake = cycle::draw(
        "kiln::graph::step_cycle",
        "steps wait for each other",
        &names,
        &ring_spans,
        "waits for",
    );
    for &other in &found.others {
        if let Some(span) = spans[other].first() {
            mistake = mistake.and(*span, format!("`{}` is part of the knot too", labels[other]));
        }
    }
    mistake.help("remove one of these `after`s")
}

/// A lint for each step that an `after` moves behind one written later.
fn moved(
    image: &Image,
    labels: &[String],
    order: &[usize],
    targets: &[Vec<usize>],
    spans: &[Vec<Span>],
) -> Vec<Mistake> {
    let mut found = Vec::new();
    for &place in order {
        let late = targets[place].iter().position(|&target| target > place);
        let Some(late) = late else { continue };
        let sequence: Vec<&str> = order.iter().map(|&step| labels[step].as_str()).collect();
        let message = format!("`{}` runs later than it is written", labels[place]);
        let target = &image.steps[targets[place][late]];
        found.push(
            Mistake::at(spans[place][late], "kiln::lint::moved_step", message, "because of this")
                .and(keyword_span(target), "which is written later")
                .help(format!("the order is: {}", sequence.join(", ")))
                .warning(),
        );
    }
    found
}

/// Takes, again and again, the first thing whose targets have all been taken. What waits in a cycle
/// is left out.
pub(super) fn linearize(targets: &[Vec<usize>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = targets.iter().map(Vec::len).collect();
    let mut waiters: Vec<Vec<usize>> = vec![Vec::new(); targets.len()];
    for (place, targets) in targets.iter().enumerate() {
        for &target in targets {
            waiters[target].push(place);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..targets.len()).filter(|&place| waiting[place] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(targets.len());
    while let Some(Reverse(place)) = ready.pop() {
        order.push(place);
        for &waiter in &waiters[place] {
            waiting[waiter] -= 1;
            if waiting[waiter] == 0 {
                ready.push(Reverse(waiter));
            }
        }
    }
    order
}
