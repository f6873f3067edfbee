//! Why an action runs: the difference between its manifest and that of an earlier build.
//!
//! It compares what the key is made of, and so cannot name a cause that is not one. Each action of a
//! chain gets the counterpart that it has in an earlier chain, the values in which the two
//! differ ([`Difference`]), what that means ([`Change`]), and so a [`Reason`]. Where earlier
//! builds are found is not known here.

mod align;
mod change;
mod difference;
mod head;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::ActionKey;
use crate::key::{Manifest, Value};

pub use change::{Change, Sources, Topic, changes};
pub use difference::{Difference, differences};
pub use head::{Head, HeadError, MAX_HEAD};

/// An action that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Built {
    /// `IMAGE/STEP` as it was called, or what stands for that where nobody knows.
    pub name: String,
    /// Its key.
    pub key: ActionKey,
    /// The preimage of its key.
    pub manifest: Manifest,
}

/// An action of a plan.
#[derive(Debug, Clone)]
pub struct Now<'a> {
    /// `IMAGE/STEP`.
    pub name: &'a str,
    /// Its key.
    pub key: ActionKey,
    /// The preimage of its key.
    pub manifest: &'a Manifest,
    /// Where its digests come from.
    pub sources: Sources,
    /// Who signed a result of this very key that does not count, as the key was revoked.
    pub revoked: Option<String>,
}

/// Which earlier build an image is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Basis {
    /// The image's last build here.
    Last,
    /// The build in the store that is most like it.
    Nearest {
        /// What its last action is called, where somebody knows.
        name: String,
    },
    /// What a remote says about the image's newest shared build.
    Shared,
    /// The one that the user named.
    Named {
        /// What its last action is called, where somebody knows.
        name: String,
    },
}

/// An earlier build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// Which one.
    pub basis: Basis,
    /// Its actions, base first.
    pub steps: Vec<Built>,
}

/// Why an action runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing like it was ever built here.
    New,
    /// It was not in the earlier build.
    Added,
    /// It says something else than in the earlier build.
    Changed {
        /// What it was called there, if that is another name.
        was: Option<String>,
        /// What is another, at least one thing.
        changes: Vec<Change>,
    },
    /// Nothing in it is another but a secret, which nobody remembers.
    Secret,
    /// It says the same, and has another place.
    Moved {
        /// What it stands behind now; `None` at the bottom.
        behind: Option<String>,
    },
    /// It says the same, and something below it does not.
    Below {
        /// The steps that are the causes, the lowest first.
        causes: Vec<Cause>,
        /// How many more there are.
        more: usize,
    },
    /// It was built here, and its result is gone.
    Gone,
    /// There is a result, and the key that signed it was revoked.
    Revoked {
        /// The number of that key.
        signer: String,
    },
    /// It was built elsewhere, and no usable result of it is here.
    Elsewhere,
}

/// A step on account of which others run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// `IMAGE/STEP`.
    pub step: String,
    /// What became of it.
    #[serde(flatten)]
    pub event: Event,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It says something else.
    Changed,
    /// It was not there before.
    Added,
    /// It is not there any more.
    Removed,
    /// It has another place.
    Moved {
        /// What it stands behind now; `None` at the bottom.
        behind: Option<String>,
    },
}

/// Why each action of a chain would run, against an earlier build of it: base first.
#[must_use]
pub fn reasons(now: &[Now<'_>], before: Option<&Before>) -> Vec<Reason> {
    let walk = before.map(|before| (&before.basis, Walk::new(now, &before.steps)));
    let reason = |(at, step): (usize, &Now<'_>)| {
        if let Some(signer) = &step.revoked {
            return Reason::Revoked { signer: signer.clone() };
        }
        let Some((basis, walk)) = &walk else { return Reason::New };
        match (walk.counterpart(at), basis) {
            (Some(other), Basis::Shared) if other.key == step.key => Reason::Elsewhere,
            (Some(other), _) if other.key == step.key => Reason::Gone,
            _ => walk.reason(at),
        }
    };
    now.iter().enumerate().map(reason).collect()
}

/// How far an earlier build is from a chain: the smaller, the more alike; `None` where they have
/// nothing in common.
#[must_use]
pub fn distance(now: &[Now<'_>], before: &[Built]) -> Option<usize> {
    align::distance(now, before)
}

/// Two chains side by side.
struct Walk<'a> {
    now: &'a [Now<'a>],
    before: &'a [Built],
    /// For each action now its counterpart.
    found: Vec<Option<usize>>,
    /// For each action now whether it kept its place among the others.
    stayed: Vec<bool>,
    /// What became of each action now, whatever lies below it.
    events: Vec<Option<Event>>,
    /// What is not there any more, by its place before.
    removed: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn new(now: &'a [Now<'a>], before: &'a [Built]) -> Self {
        let found = align::counterparts(now, before);
        let stayed = align::in_order(&found);
        let mut kept = vec![false; before.len()];
        found.iter().flatten().for_each(|&other| kept[other] = true);
        let removed = (0..before.len()).filter(|&other| !kept[other]).collect();
        let mut walk = Self { now, before, found, stayed, events: Vec::new(), removed };
        walk.events = (0..now.len()).map(|at| walk.event(at)).collect();
        walk
    }

    fn reason(&self, at: usize) -> Reason {
        match &self.events[at] {
            Some(Event::Moved { behind }) => Reason::Moved { behind: behind.clone() },
            Some(Event::Added | Event::Removed) => Reason::Added,
            Some(Event::Changed) => {
                let (now, other) = (&self.now[at], self.counterpart(at));
                let changes = other
                    .map(|other| changes(&other.manifest, now.manifest, &now.sources))
                    .unwrap_or_default();
                if changes.is_empty() {
                    return Reason::Secret;
                }
                // What nobody remembers the name of has none with a `/`.
                let was = other.map(|other| &other.name);
                let was = was.filter(|name| *name != now.name && name.contains('/'));
                Reason::Changed { was: was.cloned(), changes }
            }
            None => self.below(at),
        }
    }

    fn counterpart(&self, at: usize) -> Option<&'a Built> {
        self.found[at].map(|other| &self.before[other])
    }

    fn event(&self, at: usize) -> Option<Event> {
        let Some(other) = self.counterpart(at) else { return Some(Event::Added) };
        let now = &self.now[at];
        let (old, new) = (&other.manifest, now.manifest);
        let only_secret = || other.key != now.key && parent(old) == parent(new);
        if align::content(old) != align::content(new) || only_secret() {
            return Some(Event::Changed);
        }
        (!self.stayed[at]).then(|| Event::Moved { behind: self.behind(at) })
    }

    fn behind(&self, at: usize) -> Option<String> {
        at.checked_sub(1).map(|below| self.now[below].name.to_owned())
    }

    /// Why an action runs that says what it said: everything that became of what was below it, or
    /// is now.
    fn below(&self, at: usize) -> Reason {
        const MOST: usize = 8;
        let place = self.found[at].unwrap_or_default();
        let mut causes: Vec<(usize, &str, Cow<'_, Event>)> = Vec::new();
        for &gone in self.removed.iter().take_while(|&&gone| gone < place) {
            causes.push((self.height(gone), &self.before[gone].name, Cow::Owned(Event::Removed)));
        }
        for below in 0..at {
            if let Some(event) = &self.events[below] {
                causes.push((below, self.now[below].name, Cow::Borrowed(event)));
            }
        }
        // What has moved from below it to above it.
        for above in at + 1..self.now.len() {
            if let Some(other) = self.found[above].filter(|&other| other < place) {
                let event = Event::Moved { behind: self.behind(above) };
                causes.push((self.height(other), self.now[above].name, Cow::Owned(event)));
            }
        }
        causes.sort_by_key(|(height, ..)| *height);
        let more = causes.len().saturating_sub(MOST);
        let cause = |(_, step, event): (usize, &str, Cow<'_, Event>)| Cause {
            step: step.to_owned(),
            event: event.into_owned(),
        };
        Reason::Below { causes: causes.into_iter().take(MOST).map(cause).collect(), more }
    }

    /// Where what stood at a place before would stand now.
    fn height(&self, place: usize) -> usize {
        let below = |&at: &usize| self.stayed[at] && self.found[at] < Some(place);
        (0..self.now.len()).rev().find(below).map_or(0, |at| at + 1)
    }
}

fn parent(manifest: &Manifest) -> Option<&Value> {
    manifest.fields.iter().find(|(name, _)| name == difference::PARENT).map(|(_, value)| value)
}

impl fmt::Display for Basis {
    /// As the end of "compared with …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("its last build here"),
            Self::Nearest { name } => {
                write!(f, "{}, which of all in the store is most like it", change::plain(name))
            }
            Self::Shared => f.write_str("what a remote says of its newest shared build"),
            Self::Named { name } => f.write_str(&change::plain(name)),
        }
    }
}

impl fmt::Display for Reason {
    /// On one line of bounded length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 3;
        match self {
            Self::New => f.write_str("never built here"),
            Self::Added => f.write_str("a new step"),
            Self::Secret => f.write_str("a secret is another"),
            Self::Moved { behind: Some(step) } => {
                write!(f, "moved behind {}", change::plain(step))
            }
            Self::Moved { behind: None } => f.write_str("moved to the bottom"),
            Self::Gone => f.write_str("its result is gone from the store"),
            Self::Revoked { signer } => {
                write!(f, "the key {} that signed its result is revoked", change::plain(signer))
            }
            Self::Elsewhere => f.write_str("built elsewhere, and no usable result is here"),
            Self::Changed { was, changes } => {
                for (at, change) in changes.iter().take(MOST).enumerate() {
                    if at > 0 {
                        f.write_str("; ")?;
                    }
                    change.fmt(f)?;
                }
                and_more(f, changes.len().saturating_sub(MOST))?;
                match was {
                    Some(name) => write!(f, " (as built for {})", change::plain(name)),
                    None => Ok(()),
                }
            }
            Self::Below { causes, more } => {
                // The lowest one alone would be enough.
                let Some(Cause { step, event }) = causes.first() else {
                    return f.write_str("something below it is another");
                };
                write!(f, "{} below it {event}", change::plain(step))?;
                and_more(f, more + causes.len() - 1)
            }
        }
    }
}

impl fmt::Display for Event {
    /// As the end of "STEP …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("changed"),
            Self::Added => f.write_str("is new"),
            Self::Removed => f.write_str("is gone"),
            Self::Moved { behind: Some(step) } => write!(f, "moved behind {}", change::plain(step)),
            Self::Moved { behind: None } => f.write_str("moved to the bottom"),
        }
    }
}

fn and_more(f: &mut fmt::Formatter<'_>, more: usize) -> fmt::Result {
    if more == 0 { Ok(()) } else { write!(f, "; and {more} more") }
}
