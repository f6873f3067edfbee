//! Advice to whoever runs nova: what the options of its image cache mean for images that are built
//! again and again, and how long an image must stay that a newer one has taken the place of.
//!
//! Sources: "Manage the image cache" of the `OpenStack` image guide; nova's `nova/conf/imagecache.py`
//! and `nova/virt/libvirt/imagecache.py`; Pádraig Brady, "The life of an `OpenStack` libvirt image".

use std::fmt::Write as _;

/// The four options, with nova's own defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// `preallocate_images`: whether an instance's disk is allocated whole at its start.
    pub preallocate: bool,
    /// `remove_unused_base_images`.
    pub remove: bool,
    /// `remove_unused_original_minimum_age_seconds`.
    pub original: u64,
    /// `remove_unused_resized_minimum_age_seconds`.
    pub resized: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { preallocate: false, remove: true, original: 86_400, resized: 3_600 }
    }
}

/// Why a file is no `nova.conf`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{}` is no value of `{name}`", value.escape_debug())]
pub struct ConfigError {
    /// The line, from 1.
    pub line: usize,
    /// The option.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

impl Options {
    /// What a `nova.conf` says about them; the rest are nova's defaults. The first stands in
    /// `[DEFAULT]`. The others stand in `[image_cache]` since Ussuri, which reads them also where they
    /// stood before, the last in `[libvirt]` and the two between in `[DEFAULT]`; the new section wins.
    ///
    /// # Errors
    /// The first value that is none of its option.
    pub fn of_config(text: &str) -> Result<Self, ConfigError> {
        let mut options = Self::default();
        let mut section = String::from("DEFAULT");
        let mut grouped = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.trim().clone_into(&mut section);
                continue;
            }
            let Some((name, value)) = line.split_once(['=', ':']) else { continue };
            if line.starts_with(['#', ';']) {
                continue;
            }
            let found = (number + 1, name.trim().to_owned(), value.trim().to_owned());
            let is_resized = found.1 == "remove_unused_resized_minimum_age_seconds";
            match section.as_str() {
                "DEFAULT" if !is_resized => options.set(&found)?,
                "libvirt" if is_resized => options.set(&found)?,
                "image_cache" if found.1 != "preallocate_images" => grouped.push(found),
                _ => {}
            }
        }
        for found in &grouped {
            options.set(found)?;
        }
        Ok(options)
    }

    fn set(&mut self, (line, name, value): &(usize, String, String)) -> Result<(), ConfigError> {
        let fault = |name| ConfigError { line: *line, name, value: value.clone() };
        let seconds = |name| value.parse::<u64>().map_err(|_| fault(name));
        match name.as_str() {
            "preallocate_images" => {
                self.preallocate = match value.as_str() {
                    "none" => false,
                    "space" => true,
                    _ => return Err(fault("preallocate_images")),
                }
            }
            "remove_unused_base_images" => {
                self.remove = match value.to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" | "on" => true,
                    "false" | "0" | "no" | "off" => false,
                    _ => return Err(fault("remove_unused_base_images")),
                }
            }
            "remove_unused_original_minimum_age_seconds" => {
                self.original = seconds("remove_unused_original_minimum_age_seconds")?;
            }
            "remove_unused_resized_minimum_age_seconds" => {
                self.resized = seconds("remove_unused_resized_minimum_age_seconds")?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// What is known of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// The size of its disk in bytes, where that is known.
    pub virtual_size: Option<u64>,
    /// What the last output takes on this host in bytes, where there is one.
    pub stored: Option<u64>,
    /// Under which rules `kiln publish` deletes it from Glance, one for each cloud.
    pub kept: Vec<Kept>,
}

/// When `kiln publish` deletes a superseded image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// `keep-old`, in seconds.
    pub old: u64,
    /// `keep-last`.
    pub last: usize,
}

/// The advice as a text. `every` is how often the images are built again, in seconds.
#[must_use]
pub fn nova(options: Options, subjects: &[Subject], every: Option<u64>) -> String {
    let mut text = String::new();
    for paragraph in [preallocate(options, subjects), removal(options, subjects, every)] {
        text.push_str(&paragraph);
        text.push('\n');
    }
    text.push_str(&stay(options, subjects));
    text
}

fn preallocate(options: Options, subjects: &[Subject]) -> String {
    let mut text =
        format!("preallocate_images = {}\n", if options.preallocate { "space" } else { "none" });
    text.push_str(if options.preallocate {
        "  Every instance takes the whole disk of its flavor at its start: a node that is too full says\n  \
           so then, and disks lie in one piece. The holes of an image save nothing on the nodes.\n"
    } else {
        "  An instance takes what it writes: the holes of an image stay holes, and a node can be\n  \
           promised more than it has. Watch the free space of the nodes.\n"
    });
    for subject in subjects {
        let Some(size) = subject.virtual_size else {
            let line = "  {}: not built yet, and its recipe does not say how large its disk is\n";
            text.push_str(&line.replace("{}", &subject.name));
            continue;
        };
        write!(text, "  {}: its disk is {}", subject.name, shown(size)).expect("a string");
        match (options.preallocate, subject.stored) {
            (true, _) => {
                text.push_str(", the least that an instance takes; a flavor's disk may be larger");
            }
            (false, Some(stored)) => {
                write!(text, ", of which {} are stored", shown(stored)).expect("a string");
            }
            (false, None) => {}
        }
        text.push('\n');
    }
    text
}

fn removal(options: Options, subjects: &[Subject], every: Option<u64>) -> String {
    let mut text =
        format!("remove_unused_base_images = {}\n", if options.remove { "True" } else { "False" });
    if !options.remove {
        text.push_str(
            "  A node keeps every image that it ever started, in /var/lib/nova/instances/_base: with\n  \
               images that are built again and again it fills up. Set it to True.\n",
        );
        return text;
    }
    writeln!(
        text,
        "remove_unused_original_minimum_age_seconds = {}\n\
         remove_unused_resized_minimum_age_seconds = {}",
        options.original, options.resized
    )
    .expect("a string");
    writeln!(
        text,
        "  A node drops an image {} after the last look that found an instance on it, and a copy of\n  \
           it that was made larger after {}. Until then the next instance starts without a download.",
        period(options.original),
        period(options.resized)
    )
    .expect("a string");
    if options.resized > options.original {
        text.push_str(
            "  A larger copy is made of the original: that it stays longer saves nothing. Give it no\n  \
               more than the original's age.\n",
        );
    }
    let Some(every) = every else {
        text.push_str("  With `--every` this says what that takes on a node.\n");
        return text;
    };
    // One that has just been superseded, and those before it whose age is not over.
    let kept = options.original.div_ceil(every.max(1));
    writeln!(
        text,
        "  Built again every {}, an image has up to {kept} superseded {} on a node that nothing uses,\n  \
           beside the current one.",
        period(every),
        if kept == 1 { "version" } else { "versions" }
    )
    .expect("a string");
    for subject in subjects {
        if let Some(size) = subject.virtual_size {
            let most = size.saturating_mul(kept.saturating_add(1));
            writeln!(text, "  {}: {} at most on each node", subject.name, shown(most))
                .expect("a string");
        }
    }
    if every < options.original {
        writeln!(
            text,
            "  Instances start from the current image only, so an age of {every} seconds is enough.",
        )
        .expect("a string");
    }
    text
}

fn stay(options: Options, subjects: &[Subject]) -> String {
    let age = if options.remove { options.original } else { 0 };
    let mut text = String::from(
        "How long a superseded image must stay in Glance\n  \
           As long as an instance that was started from it is there. The disk of an instance is what\n  \
           differs from its image: where it is evacuated or rebuilt, a node fetches the image again,\n  \
           and fails where it is gone; where it is migrated or resized, the new node can at best copy\n  \
           it from the old one. Hide it (`openstack image set --hidden`) or take its name away, so\n  \
           that nobody starts from it; delete it when `openstack server list --all-projects --image\n  \
           ID` is empty.\n",
    );
    text.push_str(&published(subjects));
    if age > 0 {
        writeln!(
            text,
            "  The nodes drop it {} after that, by themselves. Shared storage of instances is looked\n  \
               after by all nodes together: an image in use on one of them stays.",
            period(age)
        )
        .expect("a string");
    }
    text.push_str(
        "  Restart nova-compute where an option was changed. Look at /var/lib/nova/instances/_base/,\n  \
           and for `Removable base files` in nova-compute's log.\n",
    );
    text
}

/// What `kiln publish` does about that by the rules of the recipes.
fn published(subjects: &[Subject]) -> String {
    let mut text = String::new();
    for subject in subjects {
        for Kept { old, last } in &subject.kept {
            writeln!(
                text,
                "  {}: `kiln publish` deletes it {} after it was superseded, once {last} {} superseded later.",
                subject.name,
                period(*old),
                if *last == 1 { "other was" } else { "others were" }
            )
            .expect("a string");
        }
    }
    if !text.is_empty() {
        text.push_str(
            "  `kiln publish` does not ask nova which instances there are: let `keep-old` be longer than\n  \
               an instance lives.\n",
        );
    }
    text
}

/// A number of bytes for people.
fn shown(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;
    if bytes >= GIB {
        format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
    } else {
        format!("{} MiB", bytes.div_ceil(MIB))
    }
}

/// A number of seconds for people: in the largest unit that it is a multiple of.
fn period(seconds: u64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let fits = |&&(unit, _): &&(u64, &str)| seconds >= unit && seconds.is_multiple_of(unit);
    let (unit, name) = units.iter().find(fits).unwrap_or(&(1, "second"));
    let count = seconds / unit;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_read_as_nova_reads_it() {
        let text = "[DEFAULT]\n# remove_unused_base_images = False\npreallocate_images=space\n\
                    remove_unused_original_minimum_age_seconds = 7\n[libvirt]\n\
                    preallocate_images = none\n[image_cache]\n\
                    preallocate_images = none\n\
                    remove_unused_original_minimum_age_seconds: 604800\n";
        let options = Options::of_config(text).unwrap();
        let expected = Options { preallocate: true, original: 604_800, ..Options::default() };
        assert_eq!(options, expected);
        assert_eq!(Options::of_config("").unwrap(), Options::default());
        let resized = |text: &str| Options::of_config(text).unwrap().resized;
        let line = "remove_unused_resized_minimum_age_seconds = 7\n";
        assert_eq!(resized(&format!("[libvirt]\n{line}")), 7, "where it stood before Ussuri");
        assert_eq!(resized(&format!("[DEFAULT]\n{line}")), 3_600, "where it never stood");
        let both = format!("[image_cache]\n{line}[libvirt]\n{}", line.replace('7', "8"));
        assert_eq!(resized(&both), 7);
        let error = Options::of_config("[DEFAULT]\npreallocate_images = all\n").unwrap_err();
        assert_eq!((error.line, error.name), (2, "preallocate_images"));
    }

    #[test]
    fn the_advice() {
        let subjects = [
            Subject {
                name: "web".to_owned(),
                virtual_size: Some(4 << 30),
                stored: Some(400 << 20),
                kept: vec![Kept { old: 172_800, last: 1 }],
            },
            Subject { name: "db".to_owned(), virtual_size: None, stored: None, kept: Vec::new() },
        ];
        let daily = nova(Options::default(), &subjects, Some(6 * 3_600));
        let space = Options { preallocate: true, resized: 172_800, ..Options::default() };
        let kept = Options { remove: false, ..Options::default() };
        let all = [daily, nova(space, &subjects, None), nova(kept, &subjects, Some(60))];
        insta::assert_snapshot!(all.join("\n=====\n"));
    }
}
