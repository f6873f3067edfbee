//! Watching one machine: its console all the time, and a session in it once one can log in.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::boot::{Console, Facts, KEY, Labels, Login, Observed, Ran};
use crate::causes;
use crate::execute::machine::{Machine, Running, Session, TRIAL};
use crate::execute::{Fault, FaultKind};
use crate::recipe::{BootTest, Expectation};

/// How often the console is looked at.
const GLANCE: Duration = Duration::from_millis(200);
/// How often logging in is tried.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How long after the console has a login prompt SSH may still take: a script that fetches keys
/// tries for two and a half minutes.
const BEHIND_PROMPT: Duration = Duration::from_mins(3);
/// How long the guest has to say who has the key, until anybody is tried.
const UNTOLD: Duration = Duration::from_secs(20);
/// How long the guest's own first work may take, once one is logged in.
const FIRST_BOOT: Duration = Duration::from_mins(5);
/// How long a command of a recipe may take.
const COMMAND: Duration = Duration::from_mins(5);
/// Users of well-known images, for guests that do not say who has the key.
const USERS: [&str; 14] = [
    "debian",
    "ubuntu",
    "cloud-user",
    "centos",
    "fedora",
    "ec2-user",
    "rocky",
    "almalinux",
    "opensuse",
    "arch",
    "alpine",
    "cirros",
    "admin",
    "root",
];

/// What the guest says of itself; see [`Facts::read`]. What cloud-init has still to do comes first.
///
/// `cloud-init status --wait` does not wait where some module of it failed.
const FACTS: &str = r#"left=300
while [ -e /run/cloud-init/status.json ] && [ ! -e /run/cloud-init/result.json ] &&
    [ "$left" -gt 0 ]; do
    sleep 1
    left=$((left - 1))
done
echo kiln-facts
name=$(hostname 2>/dev/null) || name=$(cat /proc/sys/kernel/hostname)
printf 'hostname=%s\n' "$name"
printf 'machine-id=%s\n' "$(cat /etc/machine-id 2>/dev/null)"
set -- $(LC_ALL=C df -Pk / | tail -n 1)
printf 'root-kib=%s\n' "$2"
for key in /etc/ssh/ssh_host_*_key.pub; do
    read -r kind body rest <"$key" && printf 'host-key=%s %s\n' "$kind" "$body"
done 2>/dev/null
printf 'user-data=%s\n' "$(cat /run/kiln-user-data 2>/dev/null)"
"#;

/// What is to be seen of a machine.
pub(super) struct Plan<'a> {
    pub(super) test: &'a BootTest,
    /// The file of the private key that its metadata holds the public one of.
    pub(super) key: &'a Path,
    /// What its user data writes.
    pub(super) token: String,
    /// Whether all machines are given up where none shows a sign of life.
    pub(super) trial: bool,
    /// Whether any of the machines has shown one.
    pub(super) alive: &'a AtomicBool,
    /// Whether the labels on its disk are looked at.
    pub(super) labels: bool,
}

/// A machine that is watched.
pub(super) struct Watch<'a> {
    pub(super) machine: &'a Machine,
    /// When it was started.
    pub(super) since: SystemTime,
    /// Gets the lines of its console.
    pub(super) lines: Sender<String>,
}

/// A console that is read all the time, so that the machine never waits for it.
struct Reader {
    console: Arc<Mutex<Console>>,
    ended: Arc<AtomicBool>,
}

impl Reader {
    fn start(running: &dyn Running, prefix: String, lines: Sender<String>) -> Result<Self, Fault> {
        let mut stream = running.console()?;
        let (console, ended) = (Arc::<Mutex<Console>>::default(), Arc::<AtomicBool>::default());
        let reader = Self { console: Arc::clone(&console), ended: Arc::clone(&ended) };
        std::thread::spawn(move || {
            let (mut bytes, mut line) = ([0; 4096], Vec::new());
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                console.lock().unwrap_or_else(PoisonError::into_inner).push(&bytes[..count]);
                for &byte in &bytes[..count] {
                    match byte {
                        b'\n' => {
                            let text = String::from_utf8_lossy(&line);
                            let text = text.trim_end().escape_debug().to_string();
                            let _ = lines.send(format!("{prefix}{text}"));
                            line.clear();
                        }
                        // A line without end is no line.
                        byte if line.len() < 4096 => line.push(byte),
                        _ => {}
                    }
                }
            }
            ended.store(true, Ordering::SeqCst);
        });
        Ok(reader)
    }

    fn look<T>(&self, look: impl FnOnce(&Console) -> T) -> T {
        look(&self.console.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Watch<'_> {
    /// Watches the machine until all has been seen, or its time is over; `None` where it is silent
    /// in a trial.
    ///
    /// # Errors
    /// Where the machine ends before it has shown anything.
    pub(super) fn run(
        self,
        plan: &Plan<'_>,
        running: &mut dyn Running,
    ) -> Result<Option<Observed>, Fault> {
        let started = Instant::now();
        let prefix = format!("{}| ", self.machine.instance.name);
        let reader = Reader::start(running, prefix, self.lines.clone())?;
        let deadline = started + plan.test.timeout;
        let mut attempts = Attempts::new(plan, started);
        let mut kernel_after = None;
        let login = loop {
            let now = Instant::now();
            if kernel_after.is_none() && reader.look(Console::shows_kernel) {
                kernel_after = Some(now - started);
            }
            if kernel_after.is_some() || attempts.answered || reader.look(Console::shows_login) {
                plan.alive.store(true, Ordering::SeqCst);
            }
            let silent = plan.trial && !plan.alive.load(Ordering::SeqCst);
            if reader.has_ended() {
                if silent {
                    return Ok(None);
                }
                if reader.look(|console| console.text().is_empty()) {
                    return Err(machine_gone(&running.said()));
                }
                break attempts.given_up("the machine was switched off");
            }
            if silent && now - started > TRIAL {
                return Ok(None);
            }
            if now > deadline || attempts.is_hopeless(&reader, now) {
                break attempts.given_up("its time is over");
            }
            if now < attempts.next {
                std::thread::sleep(GLANCE);
                continue;
            }
            if let Some(entered) = attempts.attempt(&reader, running, now) {
                break entered;
            }
        };
        let (mut facts, mut commands, mut labels) = Default::default();
        if let Login::Entered(user) = &login {
            (facts, commands) = inside(plan, running, user, deadline);
            if let Some(facts) = &mut facts {
                let facts: &mut Facts = facts;
                facts.host_keys.extend(running.host_keys());
            }
            wait_for_texts(plan, &reader, deadline);
            labels = plan.labels.then(|| self.labels(plan, running, user)).transpose()?;
        }
        Ok(Some(Observed {
            source: self.machine.instance.source,
            name: self.machine.instance.name.clone(),
            token: plan.token.clone(),
            console: reader.look(Clone::clone),
            login,
            facts,
            commands,
            labels,
            kernel_after,
        }))
    }

    /// What the labels on the disk are like; a disk that does not let itself be looked at says
    /// something about the guest.
    fn labels(
        &self,
        plan: &Plan<'_>,
        running: &mut dyn Running,
        user: &str,
    ) -> Result<Result<Labels, String>, Fault> {
        // What the guest has not written yet is not on its disk.
        let _ = running.session(user, plan.key, "sync", COMMAND);
        match running.labels(self.since) {
            Err(fault) if fault.kind == FaultKind::Step => Ok(Err(causes::in_one_line(&fault))),
            other => other.map(Ok),
        }
    }
}

/// Waits for what the recipe wants to see on the console: it may come long after one can log in.
fn wait_for_texts(plan: &Plan<'_>, reader: &Reader, deadline: Instant) {
    let shown = |console: &Console| {
        plan.test.expectations.iter().all(|expectation| match expectation {
            Expectation::Console(text) => console.shows(text),
            Expectation::Command { .. } => true,
        })
    };
    while !reader.look(shown) && !reader.has_ended() && Instant::now() < deadline {
        std::thread::sleep(GLANCE);
    }
}

/// The fault of a machine that ended before it showed anything; `said` is what QEMU said.
#[must_use]
pub fn machine_gone(said: &str) -> Fault {
    let message = "the machine ended before it showed anything";
    Fault::new(FaultKind::Host, "kiln::engine::machine_gone", message)
        .with_help("what QEMU says follows the message, where it says anything")
        .and_said(said)
}

/// Attempts to log in.
struct Attempts<'a> {
    plan: &'a Plan<'a>,
    next: Instant,
    /// When the console had a login prompt first, or SSH answered first.
    prompt: Option<Instant>,
    /// Whether an SSH server has ever answered.
    answered: bool,
    said: String,
}

impl<'a> Attempts<'a> {
    fn new(plan: &'a Plan<'a>, started: Instant) -> Self {
        let (prompt, answered, said) = (None, false, "nothing listens".to_owned());
        Self { plan, next: started + ATTEMPT, prompt, answered, said }
    }

    fn given_up(&self, why: &str) -> Login {
        let said = if self.said.is_empty() { why } else { &self.said };
        if self.answered {
            Login::Refused(said.to_owned())
        } else {
            Login::NoAnswer(format!("{said}; {why}"))
        }
    }

    /// Whether whoever was to be let in would have been by now.
    fn is_hopeless(&mut self, reader: &Reader, now: Instant) -> bool {
        if self.prompt.is_none() && (self.answered || reader.look(Console::shows_login)) {
            self.prompt = Some(now);
        }
        self.prompt.is_some_and(|prompt| now - prompt > BEHIND_PROMPT)
    }

    /// Whom the guest, or the recipe, says to have the key; else everybody in question, once the
    /// guest had some time to say so.
    fn users(&self, reader: &Reader, now: Instant) -> Vec<String> {
        let told = reader.look(|console| console.keys(KEY)).into_iter().map(|(_, user)| user);
        let mut users: Vec<String> = self.plan.test.user.iter().cloned().chain(told).collect();
        users.dedup();
        if users.is_empty() {
            let patient = self.prompt.is_some_and(|prompt| now - prompt > UNTOLD);
            // Any user tells whether a server answers.
            let count = if patient { USERS.len() } else { 1 };
            users.extend(USERS[..count].iter().map(|&user| user.to_owned()));
        }
        users
    }

    fn attempt(
        &mut self,
        reader: &Reader,
        running: &mut dyn Running,
        now: Instant,
    ) -> Option<Login> {
        const TIME: Duration = Duration::from_secs(30);
        for user in self.users(reader, now) {
            match running.session(&user, self.plan.key, "echo kiln-session", TIME) {
                Session::Ran { code: Some(0), output, .. } if output.contains("kiln-session") => {
                    return Some(Login::Entered(user));
                }
                // As cloud-init makes it for root: a session that only says who one should be.
                Session::Ran { output, .. } => {
                    self.answered = true;
                    self.said = output.trim().escape_debug().take(200).collect();
                }
                Session::Refused(said) => (self.answered, self.said) = (true, said),
                Session::NoAnswer(said) => {
                    self.said = said;
                    break;
                }
            }
        }
        self.next = Instant::now() + ATTEMPT;
        None
    }
}

/// What sessions in the guest show. One that is lost is tried again.
fn inside(
    plan: &Plan<'_>,
    running: &mut dyn Running,
    user: &str,
    deadline: Instant,
) -> (Option<Facts>, Vec<Ran>) {
    let mut session = |command: &str, time: Duration| {
        loop {
            match running.session(user, plan.key, command, time) {
                Session::Ran { code, output, said } => return Ran { code, output, said },
                Session::Refused(said) | Session::NoAnswer(said) if Instant::now() > deadline => {
                    return Ran { code: Some(255), output: String::new(), said };
                }
                Session::Refused(_) | Session::NoAnswer(_) => std::thread::sleep(ATTEMPT),
            }
        }
    };
    let facts = Facts::read(&session(FACTS, FIRST_BOOT + COMMAND).output);
    let commands = plan.test.expectations.iter().filter_map(|expectation| match expectation {
        Expectation::Console(_) => None,
        Expectation::Command { command, .. } => Some(session(command, COMMAND)),
    });
    (facts, commands.collect())
}
