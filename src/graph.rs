//! Recipes to one build graph: names become places, and steps get their order.
//!
//! The only home of petgraph. It knows what stands on what, and nothing of keys or of running.

mod cycle;
mod order;
mod publish;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use crate::mistake::{Mistake, nearest};
use crate::name::ImageName;
use crate::recipe::{Base, Image, PasswordSecret, Step, StepKind};
use crate::source::{Span, Spanned};

/// The label of an image's base.
pub const BASE: &str = "base";
/// The label of the action that makes the disk of an image's base larger.
pub const SIZE: &str = "size";
/// The label of an image's seal.
pub const SEAL: &str = "seal";

/// Labels that no step has, and what has them.
const RESERVED: [(&str, &str); 3] = [
    (BASE, "the image's base"),
    (SIZE, "the growth of the image's disk"),
    (SEAL, "the image's seal"),
];

/// All images of a workspace, each behind the one it stands on.
#[derive(Debug)]
pub struct BuildGraph {
    /// The images: a base comes before what stands on it, and otherwise they are as written.
    pub images: Vec<ImageNode>,
    /// What may not mean what its author thinks.
    pub lints: Vec<Mistake>,
}

/// One image with all its names resolved.
#[derive(Debug)]
pub struct ImageNode {
    /// What the recipe says.
    pub image: Image,
    /// The image that it stands on, by its place in [`BuildGraph::images`].
    pub base: Option<usize>,
    /// The order of execution, as places in `image.steps`. `selinux-relabel` is not among them: it
    /// is the seal's.
    pub order: Vec<usize>,
    /// A name for each of `image.steps` that is unique in the image: the step's own, or its keyword
    /// and ordinal as written (`install`, `install#2`).
    pub labels: Vec<String>,
}

impl ImageNode {
    /// The steps in the order of execution, each with its label.
    #[must_use]
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = (&str, &Step)> {
        self.order.iter().map(|&step| (self.labels[step].as_str(), &self.image.steps[step]))
    }
}

/// An image that was asked for by a name that no image has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("there is no image `{name}` in this workspace")]
#[diagnostic(code("kiln::graph::no_such_image"))]
pub struct UnknownImage {
    /// The name that was asked for.
    pub name: String,
    /// What to do.
    #[help]
    pub help: String,
}

impl BuildGraph {
    /// The place of an image.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.images.iter().position(|node| node.image.name.value.as_str() == name)
    }

    /// The images with these names and all that they stand on, as ascending places, which is an
    /// order of building. No names mean all images.
    ///
    /// # Errors
    /// The first name that no image has.
    pub fn closure<S: AsRef<str>>(&self, names: &[S]) -> Result<Vec<usize>, UnknownImage> {
        if names.is_empty() {
            return Ok((0..self.images.len()).collect());
        }
        let mut wanted = BTreeSet::new();
        for name in names {
            let name = name.as_ref();
            let mut next = Some(self.find(name).ok_or_else(|| self.unknown(name))?);
            while let Some(image) = next {
                next = if wanted.insert(image) { self.images[image].base } else { None };
            }
        }
        Ok(wanted.into_iter().collect())
    }

    fn unknown(&self, name: &str) -> UnknownImage {
        let known = || self.images.iter().map(|node| node.image.name.value.as_str());
        let help = match nearest(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if self.images.is_empty() => "no recipe has an image yet".to_owned(),
            None => format!("there are: {}", known().collect::<Vec<_>>().join(", ")),
        };
        UnknownImage { name: name.to_owned(), help }
    }
}

/// Resolves every name, puts the steps of each image in order, and the images behind their bases.
///
/// # Errors
/// Every name that is unknown or doubled, every cycle, every shared output and published name.
pub fn resolve(images: Vec<Image>) -> Result<BuildGraph, Vec<Mistake>> {
    let (mut mistakes, mut lints) = (Vec::new(), Vec::new());
    let places = image_places(&images, &mut mistakes);
    let bases: Vec<_> =
        images.iter().map(|image| base_place(image, &places, &mut mistakes)).collect();
    shared_outputs(&images, &places, &mut mistakes);
    publish::shared_names(&images, &mut mistakes);
    let mut orders = Vec::with_capacity(images.len());
    for (place, image) in images.iter().enumerate() {
        let labels = labels(&image.steps);
        clashing_labels(image, &labels, &mut mistakes);
        let order = order::resolve(image, &labels, &mut mistakes, &mut lints);
        lint(image, &mut lints);
        publish::lint(&images, &bases, place, &mut lints);
        orders.push((order, labels));
    }
    mistakes.extend(image_cycles(&images, &bases));
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(BuildGraph { images: behind_their_bases(images, &bases, orders), lints })
}

fn image_places<'a>(
    images: &'a [Image],
    mistakes: &mut Vec<Mistake>,
) -> HashMap<&'a ImageName, usize> {
    let mut places = HashMap::new();
    for (place, image) in images.iter().enumerate() {
        let name = &image.name;
        if let Some(&first) = places.get(&name.value) {
            let first: &Image = &images[first];
            let message = format!("two images are called `{}`", name.value);
            mistakes.push(
                Mistake::at(name.span, "kiln::graph::duplicate_image", message, "this image")
                    .and(first.name.span, "the first image of that name")
                    .help("give one of them another name"),
            );
        } else {
            places.insert(&name.value, place);
        }
    }
    places
}

fn base_place(
    image: &Image,
    places: &HashMap<&ImageName, usize>,
    mistakes: &mut Vec<Mistake>,
) -> Option<usize> {
    let Base::Image(base) = &image.base.value else { return None };
    let place = places.get(&base.value).copied();
    if place.is_none() {
        let names: BTreeSet<&str> = places
            .keys()
            .map(|name| name.as_str())
            .filter(|name| *name != base.value.as_str())
            .collect();
        let help = match nearest(base.value.as_str(), names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write the name of an image of this workspace".to_owned(),
        };
        let message = format!("there is no image `{}` to stand on", base.value);
        mistakes.push(
            Mistake::at(base.span, "kiln::graph::unknown_image", message, "not known").help(help),
        );
    }
    place
}

fn shared_outputs(
    images: &[Image],
    places: &HashMap<&ImageName, usize>,
    mistakes: &mut Vec<Mistake>,
) {
    let mut seen: BTreeMap<PathBuf, Span> = BTreeMap::new();
    for (place, image) in images.iter().enumerate() {
        // Of two images with one name the second has been reported, and its outputs follow from it.
        if places.get(&image.name.value) != Some(&place) {
            continue;
        }
        for output in &image.outputs {
            let path = output.file(&image.name.value);
            // Without a node of its own, an output is best shown by the image's name.
            let span = if output.span.offset < image.name.span.offset {
                image.name.span
            } else {
                output.span
            };
            if let Some(first) = seen.get(&path) {
                let message = format!("two outputs are written to `{}`", path.display());
                mistakes.push(
                    Mistake::at(span, "kiln::graph::shared_output", message, "this output")
                        .and(*first, "the first output with that path")
                        .help("give one of them another `path`"),
                );
            } else {
                seen.insert(path, span);
            }
        }
    }
}

/// See [`ImageNode::labels`].
fn labels(steps: &[Step]) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    steps
        .iter()
        .map(|step| {
            let keyword = step.kind.keyword();
            let count = counts.entry(keyword).or_default();
            *count += 1;
            match (&step.name, *count) {
                (Some(name), _) => name.value.to_string(),
                (None, 1) => keyword.to_owned(),
                (None, count) => format!("{keyword}#{count}"),
            }
        })
        .collect()
}

fn clashing_labels(image: &Image, labels: &[String], mistakes: &mut Vec<Mistake>) {
    for name in image.steps.iter().filter_map(|step| step.name.as_ref()) {
        let label = name.value.as_str();
        if let Some((_, what)) = RESERVED.iter().find(|(reserved, _)| *reserved == label) {
            mistakes.push(
                Mistake::at(
                    name.span,
                    "kiln::graph::label_taken",
                    format!("`{label}` is what kiln calls {what}"),
                    "this name",
                )
                .help("give the step another name"),
            );
        }
    }
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (place, label) in labels.iter().enumerate() {
        let Some(&first) = seen.get(label.as_str()) else {
            seen.insert(label, place);
            continue;
        };
        let (first, step) = (&image.steps[first], &image.steps[place]);
        let mistake = match (&first.name, &step.name) {
            (Some(first), Some(name)) => {
                let message = format!("two steps are called `{label}`");
                Mistake::at(name.span, "kiln::graph::duplicate_step", message, "this step")
                    .and(first.span, "the first step of that name")
                    .help("give one of them another name")
            }
            (named, also_named) => {
                let name = named.as_ref().or(also_named.as_ref());
                let span = name.map_or(step.span, |name| name.span);
                let other = if named.is_some() { step } else { first };
                let message = format!("`{label}` is what a step without a name is called already");
                Mistake::at(span, "kiln::graph::label_taken", message, "this name")
                    .and(keyword_span(other), "called by its keyword")
                    .help("choose a name that is no keyword, or name the other step too")
            }
        };
        mistakes.push(mistake);
    }
}

/// The keyword of a step, where its node starts.
fn keyword_span(step: &Step) -> Span {
    Span { len: step.span.len.min(step.kind.keyword().len()), ..step.span }
}

fn lint(image: &Image, lints: &mut Vec<Mistake>) {
    let relabel = |step: &Step| matches!(step.kind, StepKind::SelinuxRelabel);
    for (place, step) in image.steps.iter().enumerate() {
        if relabel(step)
            && let Some(later) = image.steps[place..].iter().rfind(|step| !relabel(step))
        {
            let message = "`selinux-relabel` is not written last, but always runs last";
            lints.push(
                Mistake::at(keyword_span(step), "kiln::lint::relabel_not_last", message, "here")
                    .and(keyword_span(later), "this runs before it")
                    .help("move it to the end of the steps")
                    .warning(),
            );
        }
        if let StepKind::Password(password) = &step.kind
            && matches!(password.secret, PasswordSecret::Plain(_))
        {
            let message = "a password is readable in the recipe";
            lints.push(
                Mistake::at(step.span, "kiln::lint::plain_password", message, "here")
                    .help("write `hash=` with a crypt(5) string, or `locked=#true`")
                    .warning(),
            );
        }
    }
}

fn image_cycles(images: &[Image], bases: &[Option<usize>]) -> Vec<Mistake> {
    let edges: Vec<_> =
        bases.iter().enumerate().filter_map(|(image, base)| Some((image, (*base)?))).collect();
    let mut mistakes = Vec::new();
    for members in cycle::find(images.len(), &edges) {
        let name = |place: usize| images[place].name.value.as_str();
        let spans = members.ring.iter().map(|&place| images[place].base.span);
        let mistake = cycle::draw(
            "kiln::graph::image_cycle",
            "images stand on each other",
            &members.ring.iter().map(|&place| name(place)).collect::<Vec<_>>(),
            &spans.collect::<Vec<_>>(),
            "stands on",
        );
        mistakes.push(mistake.help("let one of them stand on another base"));
    }
    mistakes
}

/// Puts every image behind its base, and otherwise keeps the order written.
fn behind_their_bases(
    images: Vec<Image>,
    bases: &[Option<usize>],
    orders: Vec<(Vec<usize>, Vec<String>)>,
) -> Vec<ImageNode> {
    let targets: Vec<Vec<usize>> =
        bases.iter().map(|base| base.iter().copied().collect()).collect();
    let sequence = order::linearize(&targets);
    let mut place = vec![0; images.len()];
    for (new, &old) in sequence.iter().enumerate() {
        place[old] = new;
    }
    let mut nodes: Vec<Option<ImageNode>> = images
        .into_iter()
        .zip(bases)
        .zip(orders)
        .map(|((image, base), (order, labels))| {
            Some(ImageNode { image, base: base.map(|base| place[base]), order, labels })
        })
        .collect();
    sequence.into_iter().filter_map(|old| nodes[old].take()).collect()
}

/// Finds a step by its name among the steps of an image.
fn step_places(steps: &[Step]) -> HashMap<&str, usize> {
    let mut places = HashMap::new();
    for (place, step) in steps.iter().enumerate() {
        if let Some(Spanned { value, .. }) = &step.name {
            places.entry(value.as_str()).or_insert(place);
        }
    }
    places
}

#[cfg(test)]
mod tests;
