//! The answer of `kiln why`: what becomes of an image's steps, and what the cause is.
//!
//! It has the plan's own reasons, and puts the cause before what follows from it. How it is asked
//! for is not known here.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Actions, Chain, History, Plan, summary};
use crate::digest::ActionKey;
use crate::explain::{Basis, Cause, Event, Reason, Topic};
use crate::store::results::Results;

/// How many steps the short answer tells beside the cause.
const MOST: usize = 8;

/// What becomes of the steps of one image, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// The image.
    pub image: String,
    /// The build that it was compared with; `None` where there is none like it.
    pub compared_with: Option<Basis>,
    /// How many of the steps run.
    pub run: usize,
    /// Its steps and those of what it stands on, base first and seal last.
    pub steps: Vec<WhyStep>,
}

/// One step, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WhyStep {
    /// `IMAGE/STEP`.
    pub step: String,
    /// Its key.
    pub key: ActionKey,
    /// What becomes of it, in one word.
    pub fate: &'static str,
    /// What it does, on one line.
    pub what: String,
    /// The reason in words; empty where there is none.
    pub why: String,
    /// Why it runs, or in what it differs though it need not run.
    pub reason: Option<Reason>,
    #[serde(skip)]
    runs: bool,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Every step, and values with nothing cut off.
    pub all: bool,
    /// Colours of a terminal.
    pub colours: bool,
}

impl Why {
    /// Explains a chain of a plan.
    #[must_use]
    pub fn new(
        actions: &Actions,
        chain: &Chain,
        plan: &Plan,
        results: &Results,
        history: &History<'_>,
    ) -> Self {
        let before = history.before(actions, chain, results);
        let reasons = history.reasons(actions, chain, results, before.as_ref());
        let basis = before.map(|before| before.basis);
        // What stands above the step that the user named is not compared with anything.
        let named = matches!(basis, Some(Basis::Named { .. }));
        let top = reasons.iter().rposition(|reason| *reason != Reason::Added).unwrap_or_default();
        let compared = if named { top + 1 } else { reasons.len() };
        let steps: Vec<WhyStep> = chain
            .all()
            .zip(reasons)
            .enumerate()
            .map(|(at, (&number, reason))| {
                let (node, runs) = (&actions.nodes[number], plan.runs(number));
                let told = at < compared && (runs || differs(&reason));
                let reason = told.then_some(reason);
                WhyStep {
                    step: node.name.clone(),
                    key: node.key,
                    fate: plan.word(number),
                    what: summary(&node.action.operation),
                    why: reason.as_ref().map(ToString::to_string).unwrap_or_default(),
                    reason,
                    runs,
                }
            })
            .collect();
        Self {
            image: history.image(chain.image).to_owned(),
            compared_with: basis,
            run: steps.iter().filter(|step| step.runs).count(),
            steps,
        }
    }

    /// The answer about the whole image.
    #[must_use]
    pub fn text(&self, style: Style) -> String {
        let mut text = match self.run {
            0 => format!("{}: nothing runs\n", self.image),
            run => format!("{}: {run} of {} actions run\n", self.image, self.steps.len()),
        };
        let told: Vec<&WhyStep> = self.steps.iter().filter(|step| self.is_told(step)).collect();
        self.compared(&mut text, !told.is_empty());
        if let Some(first) = told.first().filter(|first| first.reason != Some(Reason::New)) {
            text.push('\n');
            let causes = self.causes(&mut text, first, style);
            let others = told[1..].iter().filter(|step| !causes.contains(&step.step.as_str()));
            let others = others.filter_map(|step| Some((&step.step, step.reason.as_ref()?)));
            let others: Vec<_> =
                others.filter(|(_, reason)| differs_itself(reason) && !of_kiln(reason)).collect();
            let shown = if style.all { others.len() } else { others.len().min(MOST) };
            for (step, reason) in &others[..shown] {
                own(&mut text, "also", step, reason, style);
            }
            if shown < others.len() {
                line(&mut text, "also", &format!("{} more", others.len() - shown), style);
            }
        }
        let rows: Vec<&WhyStep> =
            self.steps.iter().filter(|step| style.all || self.is_told(step)).collect();
        if !rows.is_empty() {
            text.push('\n');
        }
        let wide = rows.iter().map(|step| step.step.chars().count()).max().unwrap_or_default();
        for step in rows {
            let word = paint(style, step.runs, &format!("{:<6}", step.fate));
            let why = if style.all { step.why.clone() } else { cut(&step.why) };
            let line = format!("  {word}  {:<wide$}  {why}", step.step);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    /// The answer about one step, by its place in [`Why::steps`].
    #[must_use]
    pub fn text_of(&self, step: usize, style: Style) -> String {
        let step = &self.steps[step];
        let word = paint(style, step.runs, if step.runs { "runs" } else { step.fate });
        let mut text = format!("{}: {word}\n", step.step);
        self.compared(&mut text, step.reason.is_some());
        if step.reason.as_ref().is_some_and(|reason| *reason != Reason::New) {
            text.push('\n');
            self.causes(&mut text, step, style);
        }
        let _ = writeln!(text, "\n  {}\n  key {}", step.what, step.key);
        text
    }

    /// Whether a step is in the short answer: it runs, or was compared with what the user named.
    fn is_told(&self, step: &WhyStep) -> bool {
        let named = matches!(self.compared_with, Some(Basis::Named { .. }));
        step.runs || (named && step.reason.is_some())
    }

    fn compared(&self, text: &mut String, told: bool) {
        let _ = match &self.compared_with {
            Some(basis) if told => writeln!(text, "compared with {basis}"),
            None if told => writeln!(text, "nothing like it was ever built here"),
            _ => Ok(()),
        };
    }

    /// What a step's reason comes down to; gives the steps that were told.
    fn causes<'a>(&'a self, text: &mut String, step: &'a WhyStep, style: Style) -> Vec<&'a str> {
        match &step.reason {
            Some(Reason::Below { causes, more }) if !causes.is_empty() => {
                for (at, Cause { step, event }) in causes.iter().enumerate() {
                    let word = if at == 0 { "cause" } else { "also" };
                    let found = self.steps.iter().find(|other| other.step == *step);
                    match (event, found.and_then(|found| found.reason.as_ref())) {
                        (Event::Changed, Some(reason)) => own(text, word, step, reason, style),
                        _ => line(text, word, &format!("{step} {event}"), style),
                    }
                }
                if *more > 0 {
                    line(text, "also", &format!("{more} more"), style);
                }
                causes.iter().map(|cause| cause.step.as_str()).collect()
            }
            Some(reason) => {
                own(text, "cause", &step.step, reason, style);
                vec![step.step.as_str()]
            }
            None => Vec::new(),
        }
    }
}

/// Whether a reason tells of something that is another than before.
fn differs(reason: &Reason) -> bool {
    differs_itself(reason) || matches!(reason, Reason::Below { .. })
}

/// Whether it is the step itself that is another.
fn differs_itself(reason: &Reason) -> bool {
    matches!(reason, Reason::Added | Reason::Changed { .. } | Reason::Secret | Reason::Moved { .. })
}

/// Whether a step is another only as everything is: by kiln itself, or the host.
fn of_kiln(reason: &Reason) -> bool {
    let everywhere =
        |topic: &Topic| matches!(topic, Topic::Schema | Topic::Executor | Topic::Architecture);
    matches!(reason, Reason::Changed { changes, .. }
        if changes.iter().all(|change| everywhere(&change.topic)))
}

/// A reason of a step itself, with all its changes below each other.
fn own(text: &mut String, word: &str, step: &str, reason: &Reason, style: Style) {
    let Reason::Changed { was, changes } = reason else {
        return line(text, word, &format!("{step}: {reason}"), style);
    };
    let was = was.as_ref().map(|name| format!(" since it was built for {name}"));
    line(text, word, &format!("{step} changed{}", was.unwrap_or_default()), style);
    for change in changes {
        let _ = writeln!(text, "         {change}");
        for field in change.fields.iter().filter(|_| style.all) {
            let _ = writeln!(text, "           {}", field.whole());
        }
    }
}

/// A reason that fits beside its step.
fn cut(why: &str) -> String {
    const LONGEST: usize = 100;
    match why.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &why[..end]),
        None => why.to_owned(),
    }
}

fn line(text: &mut String, word: &str, what: &str, style: Style) {
    let word = format!("{word:<5}");
    let word = if style.colours { format!("\x1b[1m{word}\x1b[0m") } else { word };
    let _ = writeln!(text, "  {word}  {what}");
}

fn paint(style: Style, runs: bool, word: &str) -> String {
    const YELLOW: u8 = 33;
    const GREEN: u8 = 32;
    let colour = if runs { YELLOW } else { GREEN };
    if style.colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() }
}
