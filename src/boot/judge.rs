//! Whether what machines showed is what a boot must show.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Console;
use crate::audit::{AuditReport, Finding, Verdict};
use crate::recipe::{BootCheck, BootTest, Expectation, MetadataSource, Severity};

/// The comment of the key that a test gives to its machines.
pub const KEY: &str = "kiln-boot-test";
/// Most texts that a finding names.
const NAMED: usize = 5;

/// What was booted.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// How it was to be tested.
    pub test: &'a BootTest,
    /// The guest, as its os-release calls it.
    pub system: &'a str,
    /// Bytes of the image's disk; those of the machines were twice as large.
    pub disk_size: u64,
    /// Why SELinux labels say nothing in this guest; `None` where they do.
    pub no_labels: Option<&'a str>,
}

/// What one machine showed.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Where it was to find who it is.
    pub source: MetadataSource,
    /// The name that it was told.
    pub name: String,
    /// What its user data was to write to the console and to leave behind.
    pub token: String,
    /// What its serial console showed.
    pub console: Console,
    /// Whether one could log in.
    pub login: Login,
    /// What it said of itself.
    pub facts: Option<Facts>,
    /// What the commands came to, in the order of the recipe.
    pub commands: Vec<Ran>,
    /// What its labels are like afterwards, where that was looked at, or why that cannot be told.
    pub labels: Option<Result<Labels, String>>,
    /// How long it took until a kernel's log was on the console, where one was.
    pub kernel_after: Option<Duration>,
}

/// Whether a key lets one in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// It does, as that user.
    Entered(String),
    /// SSH answers, and lets nobody in; what it said last.
    Refused(String),
    /// SSH does not answer; what was said last.
    NoAnswer(String),
}

/// What a guest says of itself, in a session of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its host name.
    pub hostname: String,
    /// Its machine id.
    pub machine_id: String,
    /// Its SSH host keys: their kinds and public parts.
    pub host_keys: BTreeSet<String>,
    /// Bytes of its root file system.
    pub root_size: u64,
    /// What the user data left behind.
    pub token: String,
}

/// What a command in the guest came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status; `None` where it did not end in time.
    pub code: Option<i32>,
    /// What it printed.
    pub output: String,
    /// The last line of what it said beside that.
    pub said: String,
}

/// What a guest's labels are like behind a boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Names that were looked at.
    pub files: u64,
    /// Files of the image that have another label now, at least these.
    pub changed: Vec<String>,
    /// Files that the boot made, in place of others too, and that have another label, at least these.
    pub made: Vec<String>,
    /// How many names have another label in all: those that the boot made among them.
    pub mismatches: u64,
}

impl Facts {
    /// Reads what [`crate::boot`]'s script in the guest prints, `NAME=VALUE` a line; `None` where it
    /// is not that.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut facts = Self::default();
        let (_, text) = text.split_once("kiln-facts\n")?;
        for line in text.lines() {
            let (name, value) = line.split_once('=')?;
            let value = value.trim().to_owned();
            match name {
                "hostname" => facts.hostname = value,
                "machine-id" => facts.machine_id = value,
                "root-kib" => facts.root_size = value.parse::<u64>().ok()?.checked_mul(1024)?,
                "host-key" => facts.host_keys.extend(Some(value).filter(|key| !key.is_empty())),
                "user-data" => facts.token = value,
                _ => return None,
            }
        }
        Some(facts)
    }
}

/// The names of the findings that a test leads to, in their order.
#[must_use]
pub fn checks(test: &BootTest) -> Vec<String> {
    let wanted = BootCheck::ALL.into_iter().filter(|check| !test.without.contains(check));
    let own = test.expectations.iter().map(|expectation| match expectation {
        Expectation::Console(text) => format!("expect {text:?}"),
        Expectation::Command { command, .. } => format!("expect-command {command:?}"),
    });
    wanted.map(|check| check.keyword().to_owned()).chain(own).collect()
}

/// Judges what machines showed.
#[must_use]
pub fn judge(subject: Subject<'_>, machines: &[Observed]) -> AuditReport {
    let test = subject.test;
    let mut findings = Vec::new();
    let mut names = checks(test).into_iter();
    for check in BootCheck::ALL.into_iter().filter(|check| !test.without.contains(check)) {
        let verdict = match check {
            BootCheck::Clones => clones(machines),
            BootCheck::Labels => labels(subject, machines),
            check => worst(machines.iter().map(|machine| alone(subject, machine, check))),
        };
        let name = names.next().unwrap_or_default();
        findings.push(finding(name, check.keyword(), verdict, Some(advice(check))));
    }
    let mut commands = 0;
    for (name, expectation) in names.zip(&test.expectations) {
        let verdict = match expectation {
            Expectation::Console(text) => worst(machines.iter().map(|machine| {
                let shown = machine.console.shows(text);
                (machine, of(shown, if shown { "it is there" } else { "it is not there" }))
            })),
            Expectation::Command { output, .. } => {
                commands += 1;
                worst(machines.iter().map(|machine| {
                    (machine, ran(machine.commands.get(commands - 1), output.as_deref()))
                }))
            }
        };
        findings.push(finding(name, "expect", verdict, None));
    }
    let (system, disk_size) = (subject.system.to_owned(), subject.disk_size);
    AuditReport { system, disk_size, unreadable: None, findings }
}

fn finding(name: String, check: &str, verdict: Verdict, advice: Option<&str>) -> Finding {
    let failed = matches!(verdict, Verdict::Fail(_));
    Finding {
        name,
        check: check.to_owned(),
        severity: Severity::Error,
        verdict: verdict.harmless(),
        steps: None,
        advice: advice.filter(|_| failed).map(str::to_owned),
    }
}

/// What to do where a boot does not show something.
fn advice(check: BootCheck) -> &'static str {
    match check {
        BootCheck::Console => {
            "the kernel needs `console=ttyS0`: the step `profile \"openstack\"` adds it"
        }
        BootCheck::Hostname | BootCheck::UserData | BootCheck::Key => {
            "cloud-init does this: `kiln check-image` tells what keeps it from it"
        }
        BootCheck::Ssh => "`kiln boot` shows the machine; its console log says what sshd has",
        BootCheck::Growth => {
            "growpart and cloud-init, or the initramfs, grow it: `kiln check-image` tells which is \
             missing"
        }
        BootCheck::Clones => "leave `machine-id` and `ssh-hostkeys` to the seal's scrub",
        BootCheck::Labels => "what runs at boot gives files labels that the policy does not",
    }
}

fn of(met: bool, seen: impl Into<String>) -> Verdict {
    if met { Verdict::Pass(seen.into()) } else { Verdict::Fail(seen.into()) }
}

/// The verdict on all machines: one that fails counts, and is named where there are several.
fn worst<'a>(verdicts: impl Iterator<Item = (&'a Observed, Verdict)>) -> Verdict {
    let verdicts: Vec<_> = verdicts.collect();
    let failed = verdicts.iter().find(|(_, verdict)| matches!(verdict, Verdict::Fail(_)));
    match (failed, verdicts.first()) {
        (Some((machine, verdict)), _) if verdicts.len() > 1 => {
            Verdict::Fail(format!("with {}: {}", machine.source.keyword(), verdict.seen()))
        }
        (Some((_, verdict)), _) | (None, Some((_, verdict))) => verdict.clone(),
        (None, None) => Verdict::Unknown("no machine was booted".to_owned()),
    }
}

fn alone<'a>(
    subject: Subject<'_>,
    machine: &'a Observed,
    check: BootCheck,
) -> (&'a Observed, Verdict) {
    let verdict = match check {
        BootCheck::Console => match machine.console.shows_kernel() {
            true => Verdict::Pass("the kernel's log is on the serial console".into()),
            false if machine.console.text().trim().is_empty() => {
                Verdict::Fail("the serial console shows nothing".into())
            }
            false => Verdict::Fail("the serial console shows no log of a kernel".into()),
        },
        BootCheck::UserData => user_data(machine),
        BootCheck::Key => key(subject, machine),
        BootCheck::Ssh => match &machine.login {
            Login::Entered(user) => Verdict::Pass(format!("it lets `{user}` in with the key")),
            Login::Refused(said) => Verdict::Fail(format!("it lets nobody in: {said}")),
            Login::NoAnswer(said) => Verdict::Fail(format!("it does not answer: {said}")),
        },
        _ => match &machine.facts {
            None => Verdict::Fail("nobody could log in to look".into()),
            Some(facts) if check == BootCheck::Hostname => hostname(machine, facts),
            Some(facts) => growth(subject, facts),
        },
    };
    (machine, verdict)
}

fn hostname(machine: &Observed, facts: &Facts) -> Verdict {
    // Whether a guest takes the domain too is its own affair.
    let short = facts.hostname.split('.').next().unwrap_or_default();
    let seen = format!("`{}`", facts.hostname);
    if short == machine.name {
        Verdict::Pass(format!("{seen}, as the metadata has it"))
    } else {
        Verdict::Fail(format!("{seen}, and the metadata has `{}`", machine.name))
    }
}

fn user_data(machine: &Observed) -> Verdict {
    let shown = machine.console.shows(&machine.token);
    let left = machine.facts.as_ref().is_some_and(|facts| facts.token == machine.token);
    match (shown, left) {
        (true, _) => Verdict::Pass("the script ran, and wrote to the console".into()),
        (false, true) => Verdict::Pass("the script ran".into()),
        (false, false) => Verdict::Fail("the script did not run".into()),
    }
}

fn key(subject: Subject<'_>, machine: &Observed) -> Verdict {
    let told = machine.console.keys(KEY);
    let entered = match &machine.login {
        Login::Entered(user) => Some(user.clone()),
        _ => None,
    };
    let wanted = subject.test.user.as_ref();
    // Whom the key lets in has it, whatever the console says.
    let user = entered
        .or_else(|| wanted.filter(|wanted| told.iter().any(|(_, user)| user == *wanted)).cloned())
        .or_else(|| told.first().map(|(_, user)| user.clone()));
    let Some(user) = user else { return Verdict::Fail("no user has the key".into()) };
    let place = told.iter().find(|(_, told)| *told == user).map_or_else(
        || "the key is in `authorized_keys`".to_owned(),
        |(path, _)| format!("the key is in `{path}`"),
    );
    match wanted {
        Some(wanted) if user != *wanted => {
            Verdict::Fail(format!("{place} of `{user}`, not of `{wanted}`"))
        }
        _ => Verdict::Pass(format!("{place} of `{user}`")),
    }
}

fn growth(subject: Subject<'_>, facts: &Facts) -> Verdict {
    let (root, before) = (size(facts.root_size), size(subject.disk_size));
    // On a disk twice as large, only one that grew is larger than the whole disk was.
    if facts.root_size > subject.disk_size {
        Verdict::Pass(format!("{root} on a disk that had {before}, and has twice that"))
    } else {
        Verdict::Fail(format!("{root} still, on a disk of twice {before}"))
    }
}

fn clones(machines: &[Observed]) -> Verdict {
    let [one, other] = machines else {
        return Verdict::NotApplicable("one machine was booted".into());
    };
    let (Some(one), Some(other)) = (&one.facts, &other.facts) else {
        return Verdict::Fail("nobody could log in to both to look".into());
    };
    if one.machine_id == other.machine_id && !one.machine_id.is_empty() {
        let id = &one.machine_id;
        return Verdict::Fail(format!("both machines have the machine-id `{id}`"));
    }
    if let Some(shared) = one.host_keys.intersection(&other.host_keys).next() {
        let kind = shared.split(' ').next().unwrap_or_default();
        return Verdict::Fail(format!("both machines have the same host key of {kind}"));
    }
    if one.host_keys.is_empty() || other.host_keys.is_empty() {
        return Verdict::Fail("no host keys were seen".into());
    }
    let ids =
        if one.machine_id.is_empty() { "there are no machine-ids;" } else { "machine-ids and" };
    Verdict::Pass(format!("{ids} host keys differ"))
}

fn labels(subject: Subject<'_>, machines: &[Observed]) -> Verdict {
    if let Some(why) = subject.no_labels {
        return Verdict::NotApplicable(why.to_owned());
    }
    worst(machines.iter().map(|machine| {
        let verdict = match &machine.labels {
            None => {
                Verdict::Fail("nobody could log in, so that there is nothing to look at".into())
            }
            Some(Err(why)) => Verdict::Fail(format!("they cannot be looked at: {why}")),
            Some(Ok(labels)) if labels.changed.is_empty() => {
                let (files, others) = (labels.files, labels.mismatches);
                let list: Vec<_> = labels.made.iter().take(NAMED).cloned().collect();
                let list =
                    if list.is_empty() { String::new() } else { format!(": {}", list.join(", ")) };
                Verdict::Pass(format!("{files} files, {others} new ones with another label{list}"))
            }
            Some(Ok(labels)) => {
                let list: Vec<_> = labels.changed.iter().take(NAMED).cloned().collect();
                Verdict::Fail(format!("the boot changed those of {}", list.join(", ")))
            }
        };
        (machine, verdict)
    }))
}

fn ran(ran: Option<&Ran>, wanted: Option<&str>) -> Verdict {
    let Some(Ran { code, output, said }) = ran else {
        return Verdict::Fail("nobody could log in to run it".into());
    };
    let shown = if output.trim().is_empty() { said } else { output };
    let shown: String = shown.trim().chars().take(200).collect();
    match (code, wanted) {
        (None, _) => Verdict::Fail("it did not end in time".into()),
        (Some(0), Some(wanted)) if output.trim_end() != wanted.trim_end() => {
            Verdict::Fail(format!("it printed `{shown}`"))
        }
        (Some(0), _) => Verdict::Pass("it succeeded".into()),
        (Some(code), _) => Verdict::Fail(format!("it ended with {code}: `{shown}`")),
    }
}

/// A size in GiB with two digits.
fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let value = bytes as f64 / f64::from(1 << 30);
    format!("{value:.2} GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(source: MetadataSource, number: u8) -> Observed {
        let mut console = Console::default();
        console.push(
            format!(
                "Linux version 6.1\nran-{number}\nAuthorized keys from /home/debian/.ssh/\
                 authorized_keys for user debian++\n| kiln-boot-test |\nclone-{number} login: "
            )
            .as_bytes(),
        );
        let facts = Facts {
            hostname: format!("clone-{number}"),
            machine_id: format!("{number:032}"),
            host_keys: [format!("ssh-ed25519 {number}")].into(),
            root_size: 5 << 30,
            token: format!("ran-{number}"),
        };
        Observed {
            source,
            name: format!("clone-{number}"),
            token: format!("ran-{number}"),
            console,
            login: Login::Entered("debian".to_owned()),
            facts: Some(facts),
            commands: vec![Ran {
                code: Some(0),
                output: "active\n".to_owned(),
                said: String::new(),
            }],
            labels: Some(Ok(Labels {
                files: 9,
                changed: Vec::new(),
                made: vec!["/var/log/x".to_owned()],
                mismatches: 2,
            })),
            kernel_after: Some(Duration::from_secs(9)),
        }
    }

    fn both() -> [Observed; 2] {
        [machine(MetadataSource::ConfigDrive, 1), machine(MetadataSource::Service, 2)]
    }

    fn test() -> BootTest {
        let command = |output: &str| Expectation::Command {
            command: "systemctl is-active nginx".to_owned(),
            output: Some(output.to_owned()),
        };
        let expectations = vec![Expectation::Console("login:".to_owned()), command("active")];
        BootTest { expectations, ..BootTest::default() }
    }

    fn judged(test: &BootTest, machines: &[Observed]) -> AuditReport {
        let subject = Subject { test, system: "Debian", disk_size: 3 << 30, no_labels: None };
        judge(subject, machines)
    }

    fn failed(test: &BootTest, machines: &[Observed]) -> Vec<String> {
        judged(test, machines).failures().map(|finding| finding.name.clone()).collect()
    }

    #[test]
    fn a_good_boot_passes() {
        let report = judged(&test(), &both());
        assert_eq!(report.failures().count(), 0, "{report:#?}");
        insta::assert_snapshot!(report.text("golden", "boot test", crate::audit::Style::default()));
    }

    #[test]
    fn each_fault_fails_its_own_check() {
        let with = |change: &dyn Fn(&mut Observed)| {
            let mut machines = both();
            change(&mut machines[1]);
            failed(&test(), &machines)
        };
        let facts =
            |change: fn(&mut Facts)| with(&|machine| change(machine.facts.as_mut().unwrap()));
        assert_eq!(facts(|facts| facts.hostname = "localhost".into()), ["hostname"]);
        assert_eq!(facts(|facts| facts.machine_id = format!("{:032}", 1)), ["clones"]);
        assert_eq!(facts(|facts| facts.host_keys.extend(["ssh-ed25519 1".into()])), ["clones"]);
        assert_eq!(facts(|facts| facts.root_size = 2 << 30), ["growth"]);
        assert_eq!(with(&|machine| machine.token = "another".into()), ["user-data"]);
        let silent = with(&|machine| machine.console = Console::default());
        assert_eq!(silent, ["console", "expect \"login:\""]);
        let refused = with(&|machine| {
            machine.login = Login::Refused("Permission denied".into());
            (machine.facts, machine.commands) = (None, Vec::new());
        });
        let all =
            ["hostname", "ssh", "growth", "clones", "expect-command \"systemctl is-active nginx\""];
        assert_eq!(refused, all);
        let label = with(&|machine| {
            machine.labels.as_mut().unwrap().as_mut().unwrap().changed.push("/etc/shadow".into());
        });
        assert_eq!(label, ["labels"]);
        assert_eq!(with(&|machine| machine.labels = Some(Err("no root".into()))), ["labels"]);
        assert_eq!(facts(|facts| facts.host_keys.clear()), ["clones"]);
        let dead = with(&|machine| machine.commands[0].code = Some(3));
        assert_eq!(dead, ["expect-command \"systemctl is-active nginx\""]);
        let other = with(&|machine| machine.commands[0].output = "inactive".into());
        assert_eq!(other.len(), 1);
    }

    #[test]
    fn what_need_not_be_seen_is_not_reported_and_another_user_is() {
        let without = BootTest { without: BootCheck::ALL.into(), ..BootTest::default() };
        assert_eq!(judged(&without, &both()).findings, []);
        let admin = BootTest { user: Some("admin".into()), ..BootTest::default() };
        assert_eq!(failed(&admin, &both()), ["key"]);
        // Whom the key lets in counts, not whom the console names.
        let mut machines = both();
        machines[0].login = Login::Entered("admin".into());
        assert_eq!(judged(&BootTest::default(), &machines).failures().count(), 0);
        let first = judged(&BootTest::default(), &machines);
        assert!(first.findings[3].verdict.seen().ends_with("of `admin`"), "{first:#?}");
    }

    #[test]
    fn what_a_guest_says_is_harmless() {
        let mut machines = both();
        machines[0].facts.as_mut().unwrap().hostname = "\u{1b}[31mevil".into();
        let report = judged(&BootTest::default(), &machines);
        assert!(!report.text("x", "y", crate::audit::Style::default()).contains('\u{1b}'));
    }

    #[test]
    fn facts_are_read_whole_or_not_at_all() {
        let text = "motd\nkiln-facts\nhostname=a\nmachine-id=b\nroot-kib=4\nhost-key=k 1\n\
                    host-key=\nuser-data=t\n";
        let facts = Facts::read(text).unwrap();
        assert_eq!((facts.hostname.as_str(), facts.root_size), ("a", 4096));
        assert_eq!(facts.host_keys.len(), 1);
        assert_eq!(Facts::read("Please login as the user \"debian\""), None);
        assert_eq!(Facts::read("kiln-facts\nroot-kib=many\n"), None);
        assert_eq!(Facts::read(&format!("kiln-facts\nroot-kib={}\n", u64::MAX)), None);
    }
}
