//! What the commands of a script mean together: which of them make images, and which image each one
//! works on.

use super::Files;
use super::dib;
use super::draft::{Draft, ImageDraft, Item, Node, disk_name, stem};
use super::shell::{self, Call};
use super::traps::Traps;
use super::virt::{Purpose, Session, Tool, Word, size};
use crate::mistake::Mistake;
use crate::source::FileId;

/// Commands that say nothing about an image.
const SILENT: &[&str] = &[
    ":", "[", "cd", "echo", "exit", "false", "pwd", "printf", "return", "set", "shift", "shopt",
    "sleep", "test", "trap", "true", "umask", "wait",
];

/// Reads a script, or a single command line.
///
/// # Errors
/// If it is not shell.
pub(super) fn read(
    draft: &mut Draft,
    traps: &mut Traps,
    file: FileId,
    text: &str,
    files: &Files<'_>,
) -> Result<(), Mistake> {
    let mut pending = Vec::new();
    let first = draft.images.len();
    for call in shell::calls(file, text)? {
        // More than this is refused as a whole.
        if draft.images.len() > super::MAX_IMAGES {
            break;
        }
        command(draft, traps, files, call, text, &mut pending);
    }
    // What stands behind the last image, or in a script without one.
    match draft.images.get_mut(first..).and_then(<[_]>::last_mut) {
        Some(image) => image.items.extend(pending.into_iter().map(Item::Note)),
        None => draft.notes.extend(pending),
    }
    Ok(())
}

fn command(
    draft: &mut Draft,
    traps: &mut Traps,
    files: &Files<'_>,
    mut call: Call,
    text: &str,
    pending: &mut Vec<String>,
) {
    unwrap(&mut call.words);
    let Some(program) = call.words.first().cloned() else { return };
    let arguments = &call.words[1..];
    let name = program.text.rsplit('/').next().unwrap_or_default().to_owned();
    let makes = Tool::of(&program.text).is_some() || name == "disk-image-create";
    let images = draft.images.len();
    if makes {
        // What stands before a command on a disk that is known belongs between its steps.
        let on = |image: &&mut ImageDraft| arguments.iter().any(|one| image.holds(&one.text));
        if let Some(image) = draft.images.iter_mut().find(on) {
            for note in pending.drain(..) {
                image.note(note);
            }
        }
    }
    if let Some(tool) = Tool::of(&program.text) {
        conditional(traps, &call);
        Session::new(draft, traps, Purpose::Recipe, files).command(tool, arguments, call.span);
    } else if name == "disk-image-create" {
        conditional(traps, &call);
        dib::command(draft, traps, arguments, &call.variables, call.span);
    } else if name == "qemu-img" && qemu_img(draft, traps, &call) {
        conditional(traps, &call);
        return;
    } else if name == "cp" && copied(draft, arguments) {
        return;
    } else if name == "cd" && !call.writes {
        moved(traps, &call);
    } else if !SILENT.contains(&name.as_str()) || call.writes {
        let shown = text.get(call.span.offset..call.span.offset + call.span.len);
        let shown = shown.unwrap_or(&program.text);
        let message =
            format!("kiln cannot tell what `{}` does to an image", crate::mistake::excerpt(&name));
        let help = "write what it does as steps, or keep it in a script around kiln";
        traps.left(call.span, message, help);
        pending.push(format!("not imported: {shown}"));
    }
    if makes {
        let notes = std::mem::take(pending);
        let grown = draft.images.len() > images;
        match draft.images.last_mut().filter(|_| grown) {
            Some(image) => image.notes.extend(notes),
            None => draft.notes.extend(notes),
        }
    }
}

/// Removes programs that run the rest of their command line.
fn unwrap(words: &mut Vec<Word>) {
    while let Some(first) = words.first() {
        let skip = match first.text.rsplit('/').next().unwrap_or_default() {
            "sudo" | "time" | "exec" | "nice" | "env" | "command" => 1,
            _ if first.text.contains('=') && !first.text.starts_with('-') => 1,
            _ => return,
        };
        words.drain(..skip);
        while words.first().is_some_and(|word| word.text.starts_with('-')) {
            let takes = matches!(words[0].text.as_str(), "-u" | "-g" | "-n");
            words.drain(..if takes && words.len() > 1 { 2 } else { 1 });
        }
    }
}

fn conditional(traps: &mut Traps, call: &Call) {
    if let Some(within) = call.within {
        traps.push(
            call.span,
            "kiln::import::conditional",
            format!("this command stands in {within}"),
            "imported as though it always ran, once",
            "make it an image of its own, or remove its steps",
        );
    }
}

/// `cd`, unless it goes where the script lies: paths behind it are relative to another directory.
fn moved(traps: &mut Traps, call: &Call) {
    let here = |word: &Word| {
        ["$0", "BASH_SOURCE", "PWD"].iter().any(|part| word.text.contains(part))
            || matches!(word.text.as_str(), "." | "-")
    };
    if call.words.get(1).is_some_and(|word| !here(word)) {
        traps.push(
            call.span,
            "kiln::import::changed_directory",
            "what stands behind this ran in another directory",
            "the recipe has its paths as they were written",
            "put the directory before the paths in the recipe",
        );
    }
}

/// `qemu-img resize`, `convert` and `create -b`, of disks that are known. Says whether it was one.
fn qemu_img(draft: &mut Draft, traps: &mut Traps, call: &Call) -> bool {
    let words = &call.words[1..];
    let mut plain = Vec::new();
    let (mut format, mut input_format) = (None, None);
    let mut compress = false;
    let mut backing = None;
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        match word.text.as_str() {
            "-O" => format = rest.next(),
            "-f" => input_format = rest.next(),
            "-b" | "-B" => backing = rest.next(),
            "-F" | "-o" | "-T" | "-t" | "-m" | "-S" => {
                rest.next();
            }
            "-c" => compress = true,
            flag if flag.starts_with('-') && flag.len() > 1 => {}
            _ => plain.push(word),
        }
    }
    let known = |draft: &Draft, disk: &str| draft.images.iter().position(|image| image.holds(disk));
    match (words.first().map(|word| word.text.as_str()), plain.as_slice()) {
        (Some("resize"), [disk, wanted]) => {
            let Some(wanted) = size(&wanted.text) else { return false };
            let place = if let Some(place) = known(draft, &disk.text) {
                place
            } else {
                let mut image = ImageDraft::new(draft.free_name(stem(&disk.text)), call.span);
                image.add_disk(&disk.text);
                image.base = Some(Node::new("base", ["file", &disk_name(&disk.text)], disk.span));
                draft.images.push(image);
                draft.images.len() - 1
            };
            draft.images[place].base_property("size", &wanted);
            true
        }
        (Some("convert"), [input, output]) => {
            let Some(place) = known(draft, &input.text) else { return false };
            let image = &mut draft.images[place];
            let format = format.map_or("raw", |word| &word.text);
            let mut node = Node::new("output", [format], call.span);
            if compress && format == "qcow2" {
                node = node.flag("compress", true);
            }
            if !matches!(format, "qcow2" | "raw") {
                let message = format!("kiln writes no `{}` here", crate::mistake::excerpt(format));
                traps.left(call.span, message, "convert the output with qemu-img behind kiln");
                image.note(format!("not imported: qemu-img convert -O {format} {}", output.text));
                return true;
            }
            // The disk between the steps was no result; what was converted before is one.
            if !std::mem::replace(&mut image.converted, true) {
                image.outputs.clear();
            }
            let twin = image.outputs.iter().find(|known| known.arguments == node.arguments);
            if twin.is_some_and(|twin| twin.properties != node.properties) {
                let message = format!("an image has one output of the format `{format}`");
                traps.left(call.span, message, "convert the output with qemu-img behind kiln");
                image.note(format!("not imported: qemu-img convert to {}", output.text));
            } else if twin.is_none() {
                image.outputs.push(node);
            }
            image.add_disk(&output.text);
            true
        }
        (Some("create"), [disk, more @ ..]) if backing.is_some() => {
            let Some(backing) = backing else { return false };
            let mut image = ImageDraft::new(draft.free_name(stem(&disk.text)), call.span);
            image.add_disk(&disk.text);
            image.base = Some(match known(draft, &backing.text) {
                Some(place) => Node::new("base", ["image", &draft.images[place].name], call.span),
                None => Node::new("base", ["file", &disk_name(&backing.text)], backing.span),
            });
            if let Some(wanted) = more.first().and_then(|word| size(&word.text)) {
                image.base_property("size", &wanted);
            }
            image.outputs.push(Node::new(
                "output",
                [input_format.map_or("raw", |f| &f.text)],
                call.span,
            ));
            draft.images.push(image);
            true
        }
        (Some("info" | "check" | "map" | "compare"), _) => true,
        _ => false,
    }
}

/// `cp A B` of a disk: the copy starts where the other one is.
fn copied(draft: &mut Draft, arguments: &[Word]) -> bool {
    let plain: Vec<&Word> = arguments.iter().filter(|word| !word.text.starts_with('-')).collect();
    let [from, to] = plain.as_slice() else { return false };
    let known = draft.images.iter().find(|image| image.holds(&from.text));
    let disk = |text: &str| {
        let ending = text.rsplit_once('.').map_or("", |(_, ending)| ending);
        matches!(ending, "qcow2" | "img" | "raw" | "vmdk" | "vdi" | "vhdx")
    };
    let base = match known {
        Some(image) => Node::new("base", ["image", &image.name], from.span),
        None if disk(&from.text) && disk(&to.text) => {
            Node::new("base", ["file", &disk_name(&from.text)], from.span)
        }
        None => return false,
    };
    let mut image = ImageDraft::new(draft.free_name(stem(&to.text)), from.span.to(to.span));
    image.base = Some(base);
    image.add_disk(&to.text);
    draft.images.push(image);
    true
}
