//! The boot test of an image.

use super::fields::{Context, Fields, known_nodes};
use super::only_once;
use super::table::{Word, boot::COMMAND};
use crate::mistake::Mistake;
use crate::recipe::{BootCheck, BootFirmware, BootTest, Expectation, MetadataSource};

/// Most machines that are booted at once, each with a source of its own.
const MACHINES: usize = 2;

/// What a node `test` says.
pub(super) fn lower(cx: &mut Context<'_>, fields: &Fields<'_>) -> BootTest {
    let mut test = BootTest::default();
    test.timeout = fields.property("timeout").unwrap_or(test.timeout);
    let Some(block) = fields.node.children() else { return test };
    let known: Vec<&'static Word> = fields.word.children().collect();
    let mut seen = Vec::new();
    for (node, word) in known_nodes(cx, block, "`test`", &known) {
        let inner = Fields::read(cx, node, word);
        match word.keyword {
            "expect" => test.expectations.extend(inner.one("text").map(Expectation::Console)),
            COMMAND => {
                let output = inner.property("output");
                let command = inner.one("command");
                test.expectations
                    .extend(command.map(|command| Expectation::Command { command, output }));
            }
            "without" => {
                let names = inner.many::<&'static str>("check").unwrap_or_default();
                let named = |check: &BootCheck| names.contains(&check.keyword());
                test.without.extend(BootCheck::ALL.into_iter().filter(named));
            }
            keyword => {
                only_once(cx, &mut seen, &inner);
                match keyword {
                    "memory" => test.memory = inner.one("size").unwrap_or(test.memory),
                    "firmware" => test.firmware = inner.one("kind").map(firmware),
                    "user" => test.user = inner.one("user"),
                    _ => test.metadata = metadata(cx, &inner).unwrap_or(test.metadata),
                }
            }
        }
    }
    test
}

fn firmware(keyword: &'static str) -> BootFirmware {
    if keyword == BootFirmware::Uefi.keyword() { BootFirmware::Uefi } else { BootFirmware::Bios }
}

/// The sources, of which there is one a machine.
fn metadata(cx: &mut Context<'_>, fields: &Fields<'_>) -> Option<Vec<MetadataSource>> {
    let names = fields.many::<&'static str>("source")?;
    if names.len() > MACHINES {
        let message = format!("{} sources are for more than {MACHINES} machines", names.len());
        let code = "kiln::lower::too_many_sources";
        cx.push(
            Mistake::at(fields.span, code, message, "this one")
                .help("name one, or two: each machine has its own"),
        );
        return None;
    }
    let of = |name: &&str| MetadataSource::ALL.into_iter().find(|known| known.keyword() == *name);
    names.iter().map(of).collect()
}
