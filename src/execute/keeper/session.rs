//! A guest's registration with a subscription service, for the steps that ask for it.
//!
//! What the guest's `subscription-manager` writes lies in the keeper's memory and is bound over the
//! guest's own files while programs run: nothing of it is ever on the disk. A registration lasts
//! from one step that asks for it to the next, and is ended before anything else happens.
//!
//! Sources: subscription-manager(8); `managerlib.py` and `repofile.py` of subscription-manager 1.29
//! for the files that it writes.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FileType;

use super::secrets::Memory;
use super::steps::{Given, Log};
use super::{Keeper, guest_fault, host};
use crate::execute::container::{Bind, Ended, Status};
use crate::execute::registered::Registered;
use crate::execute::{Fault, FaultKind};
use crate::files::{self, Context};
use crate::guest::program::{SCRIPT_PATH, TemporaryFile};
use crate::guest::root::FileAttributes;
use crate::guest::{GuestRoot, Program};
use crate::key::Registration;
use crate::link::Link;
use crate::name::SecretName;
use crate::recipe::Account;
use crate::secret::SecretValue;

/// What the guest's program is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// To register, with the secret.
    Registers,
    /// To do anything else, with the registration that there is.
    Asks,
    /// To end the registration, within that time.
    Ends(Duration),
}

/// How long the service may take to register a guest.
const REGISTER: Duration = Duration::from_mins(5);
/// How long it may take to end a registration.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);
/// The same, where the build was called off: less than a keeper has without its kiln.
const HASTE: Duration = Duration::from_secs(6);
/// Bytes of memory for what the service sends.
const ROOM: usize = 64 << 20;

const PROGRAM: &str = "/usr/sbin/subscription-manager";
const REPOSITORIES: &str = "/etc/yum.repos.d";
const REPOSITORY: &str = "/etc/yum.repos.d/redhat.repo";
/// The same in the directory in memory, from where it is bound as a file of its own.
const LENT: &str = "redhat.repo";
/// Where some versions copy a consumer that the service no longer knows, with its key.
const BACKUP: &str = "/etc/pki/consumer.old";

/// The directories that a registration writes to, and whether it starts with what the guest has.
const PLACES: &[(&str, bool)] = &[
    ("/etc/pki/consumer", false),
    ("/etc/pki/entitlement", false),
    ("/etc/rhsm", true),
    ("/var/lib/rhsm", true),
    ("/var/log/rhsm", false),
];

/// Most files that are taken over from a guest, and largest of them, in bytes.
const MOST_FILES: usize = 2000;
const LARGEST_FILE: u64 = 4 << 20;

/// A guest's registration.
pub(super) struct Session {
    registration: Registration,
    secrets: Vec<(SecretName, SecretValue)>,
    memory: Memory,
    known: Registered,
    /// Whether the service may know a consumer that the guest does not: its program was cut off
    /// while it registered.
    unsure: bool,
    /// Whether the guest has a directory of package repositories.
    has_repositories: bool,
}

impl Session {
    fn directory(&self, number: usize) -> PathBuf {
        self.memory.path().join(number.to_string())
    }

    fn repositories(&self) -> PathBuf {
        self.memory.path().join("repositories")
    }

    fn backup(&self) -> PathBuf {
        self.memory.path().join("backup")
    }

    fn binds(&self) -> Vec<Bind> {
        let bind = |(number, (path, _)): (usize, &(&str, bool))| Bind {
            source: self.directory(number),
            target: PathBuf::from(path),
            read_only: false,
        };
        PLACES.iter().enumerate().map(bind).collect()
    }

    /// Lets a step's program use the registration.
    pub(super) fn lend(
        &self,
        root: &GuestRoot,
        program: &mut Program,
        given: &mut Given,
    ) -> Result<(), Fault> {
        given.binds.extend(self.binds());
        if !self.has_repositories || !root.is_directory(REPOSITORIES) {
            return Ok(());
        }
        let source = self.repositories().join(LENT);
        // Package managers write it themselves, on their first run.
        plain_file(&source)?;
        let path = REPOSITORY.parse().expect("a path");
        program.temporary.push(TemporaryFile { path, content: Vec::new(), mode: 0o644 });
        given.binds.push(Bind { source, target: PathBuf::from(REPOSITORY), read_only: false });
        Ok(())
    }

    fn is_registered(&self) -> bool {
        // The guest's program writes there: whatever it is, it is not followed.
        fs::symlink_metadata(self.directory(0).join("cert.pem")).is_ok()
    }
}

impl Keeper {
    /// Sees to it that the guest is registered as a step wants it, or not at all.
    pub(super) fn begin_session(
        &mut self,
        wanted: Option<&Registration>,
        secrets: &[(SecretName, SecretValue)],
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<(), Fault> {
        let now = self.session.as_ref().map(|session| &session.registration);
        if now == wanted {
            return Ok(());
        }
        self.end_session(PATIENCE, log, engine)?;
        match wanted {
            Some(registration) => self.register(registration, secrets, log, engine),
            None => Ok(()),
        }
    }

    fn register(
        &mut self,
        registration: &Registration,
        secrets: &[(SecretName, SecretValue)],
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<(), Fault> {
        let path = self.mounted()?.root().to_owned();
        let root = GuestRoot::open(&path).map_err(|error| guest_fault(&error))?;
        let (option, secret, mut arguments) = match &registration.account {
            Account::ActivationKey { organization, key } => {
                ("--activationkey", &key.name, vec![format!("--org={organization}")])
            }
            Account::User { user, password } => {
                ("--password", &password.name, vec![format!("--username={user}")])
            }
        };
        arguments.extend(registration.server.iter().map(|server| format!("--serverurl={server}")));
        let mut argv = interpreter(&root)?;
        argv.extend([SCRIPT_PATH, option, secret.as_str(), "register"].map(str::to_owned));
        argv.extend(arguments);
        let mut program = Program::new(argv);
        program.script = Some(include_bytes!("register.py").to_vec());

        let secrets: Vec<_> = secrets.iter().filter(|(name, _)| name == secret).cloned().collect();
        let session = self.prepare(&root, registration, secrets)?;
        session.known.write(&self.directory).map_err(|error| host(&error))?;
        self.session = Some(session);
        log.keep();
        let ended = self.subscription_manager(&root, &program, Call::Registers, log, engine);
        let said = log.kept();
        let consumer = consumer_id(&String::from_utf8_lossy(&said));
        if let Some(session) = &mut self.session {
            session.known.consumer = consumer;
            let exited = |ended: &Ended| matches!(ended.status, Status::Exited(_));
            session.unsure = !ended.as_ref().is_ok_and(exited);
            session.known.write(&self.directory).map_err(|error| host(&error))?;
        }
        let ended = ended?;
        if ended.status != Status::Exited(0) {
            let message = format!("the guest could not be registered{}", log.excerpt());
            return Err(Fault::new(FaultKind::Step, "kiln::execute::register", message).with_help(
                "check `subscription` in the image, and the secret that it names in `kiln.kdl`",
            ));
        }
        self.attach_pools(&root, &registration.pools, log, engine)
    }

    /// Makes the directories in memory.
    fn prepare(
        &self,
        root: &GuestRoot,
        registration: &Registration,
        secrets: Vec<(SecretName, SecretValue)>,
    ) -> Result<Session, Fault> {
        let memory = Memory::mount(self.directory.join("session"), ROOM);
        let session = Session {
            registration: registration.clone(),
            secrets,
            memory: memory.map_err(|error| host(&error))?,
            known: Registered::of(registration),
            unsure: false,
            has_repositories: root.is_directory(REPOSITORIES),
        };
        let mut left = MOST_FILES;
        for (number, (path, taken_over)) in PLACES.iter().enumerate() {
            if !root.is_directory(path) {
                let message = format!("the guest has no `{path}`, so it cannot be registered");
                let fault =
                    Fault::new(FaultKind::Step, "kiln::execute::subscription_place", message);
                return Err(
                    fault.with_help("install `subscription-manager` whole in a step before")
                );
            }
            let target = session.directory(number);
            files::make_directory(&target, 0o755).map_err(|error| host(&error))?;
            if *taken_over {
                take_over(root, Path::new(path), &target, &mut left)?;
            }
        }
        for directory in [session.repositories(), session.backup()] {
            files::make_directory(&directory, 0o755).map_err(|error| host(&error))?;
        }
        if session.has_repositories {
            take_over(root, Path::new(REPOSITORIES), &session.repositories(), &mut left)?;
            drop_link(&session.repositories()).map_err(|error| host(&error))?;
        }
        Ok(session)
    }

    /// Attaches pools, where the guest's program still knows what that is.
    fn attach_pools(
        &mut self,
        root: &GuestRoot,
        pools: &[String],
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<(), Fault> {
        if pools.is_empty() {
            return Ok(());
        }
        log.keep();
        let help = Program::new([PROGRAM, "--help"]);
        let ended = self.subscription_manager(root, &help, Call::Asks, log, engine);
        let said = log.kept();
        ended?;
        let said = String::from_utf8_lossy(&said);
        let knows = said.lines().any(|line| line.split_whitespace().next() == Some("attach"));
        for pool in pools {
            let argument = match pool.as_str() {
                // Without pools the service gives every registered system what it may have.
                "auto" if !knows => continue,
                "auto" => "--auto".to_owned(),
                pool => format!("--pool={pool}"),
            };
            let program = Program::new([PROGRAM, "attach", &argument]);
            let attached = knows
                .then(|| self.subscription_manager(root, &program, Call::Asks, log, engine))
                .transpose()?;
            if attached.is_none_or(|ended| ended.status != Status::Exited(0)) {
                let message = format!("the pool `{pool}` could not be attached{}", log.excerpt());
                let fault = Fault::new(FaultKind::Step, "kiln::execute::attach_pool", message);
                return Err(fault.with_help(
                    "RHEL 10 has no pools any more: leave `pool` out where the organization has \
                     simple content access",
                ));
            }
        }
        Ok(())
    }

    /// Runs the guest's program, or what runs it, with the network.
    fn subscription_manager(
        &mut self,
        root: &GuestRoot,
        program: &Program,
        call: Call,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<Ended, Fault> {
        let Some(session) = &self.session else { return Err(super::confused()) };
        let mut given = Given { network: true, binds: session.binds(), ..Given::default() };
        (given.timeout, given.regardless) = match call {
            Call::Registers | Call::Asks => (REGISTER, false),
            // What ends a registration has to come to its own end.
            Call::Ends(patience) => (patience, true),
        };
        if session.has_repositories && root.is_directory(REPOSITORIES) {
            // It removes and makes files there, which a single file that is bound does not allow.
            let (source, target) = (session.repositories(), PathBuf::from(REPOSITORIES));
            given.binds.push(Bind { source, target, read_only: false });
        }
        let secrets = session.secrets.clone();
        log.hide(&secrets);
        let memory = self.place_secrets(&secrets, |_| call == Call::Registers, &mut given)?;
        let backup = root.lstat(BACKUP).map_err(|error| guest_fault(&error))?;
        let had_backup = backup.is_some();
        // Where it is a file or a link, no version writes a directory there.
        if backup.is_none_or(|meta| meta.kind == FileType::Directory) {
            root.make_directories(BACKUP, FileAttributes::default())
                .map_err(|error| guest_fault(&error))?;
            let source = self.session.as_ref().ok_or_else(super::confused)?.backup();
            let target = PathBuf::from(BACKUP);
            given.binds.push(Bind { source, target, read_only: false });
        }
        let ended = self.run_given(root, program, &given, log, engine);
        drop(memory);
        if !had_backup {
            let backup = root.place("remove", BACKUP).map_err(|error| guest_fault(&error))?;
            backup.remove("remove").map_err(|error| guest_fault(&error))?;
        }
        ended
    }

    /// Ends the registration, if there is one. Its note stays where that did not succeed: whoever
    /// built reads it, and warns unless the fault that this gives has reached them.
    pub(super) fn end_session(
        &mut self,
        patience: Duration,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<(), Fault> {
        let Some(session) = &self.session else { return Ok(()) };
        let (known, unsure) = (session.known.clone(), session.unsure);
        let ended = if session.is_registered() || known.consumer.is_some() {
            self.unregister(patience, log, engine)
        } else {
            Ok(!unsure)
        };
        // What it wrote goes with it, also where the service did not answer.
        self.session = None;
        let why = match ended {
            Ok(true) => {
                return Registered::forget(&self.directory).map_err(|error| host(&error));
            }
            Ok(false) => log.excerpt(),
            Err(fault) => format!(": {fault}"),
        };
        let message = format!("the guest could not be unregistered: {known}{why}");
        let fault = Fault::new(FaultKind::Host, "kiln::execute::unregister", message);
        Err(fault.with_help("nothing of the registration is on the disk; the build can go on"))
    }

    fn unregister(
        &mut self,
        patience: Duration,
        log: &mut Log,
        engine: &mut Link,
    ) -> Result<bool, Fault> {
        let path = self.mounted()?.root().to_owned();
        let root = GuestRoot::open(&path).map_err(|error| guest_fault(&error))?;
        let program = Program::new([PROGRAM, "unregister"]);
        let call = Call::Ends(patience);
        let ended = self.subscription_manager(&root, &program, call, log, engine)?;
        if patience > HASTE {
            let program = Program::new([PROGRAM, "clean"]);
            self.subscription_manager(&root, &program, call, log, engine)?;
        }
        Ok(ended.status == Status::Exited(0))
    }

    /// Ends the registration behind a step that failed, whose error is the one that counts.
    pub(super) fn give_up_session(&mut self, fault: &Fault, log: &mut Log, engine: &mut Link) {
        let patience = if fault.kind == FaultKind::Interrupted { HASTE } else { PATIENCE };
        if let Err(fault) = self.end_session(patience, log, engine) {
            log.line(engine, &format!("[kiln: {fault}]"));
        }
    }

    /// Ends the registration where no step is performed.
    pub(super) fn close_session(&mut self, engine: &mut Link) -> Result<(), Fault> {
        if self.session.is_none() {
            return Ok(());
        }
        let mut log = Log::open(Path::new("/dev/null")).map_err(|error| host(&error))?;
        self.end_session(HASTE, &mut log, engine)
    }
}

/// What the first line of the guest's program runs it with.
fn interpreter(root: &GuestRoot) -> Result<Vec<String>, Fault> {
    let none = |why: String| {
        Fault::new(FaultKind::Step, "kiln::execute::no_subscription_manager", why).with_help(
            "install `subscription-manager` in a step before, from a repository that needs no \
             subscription, or start from an image that has it",
        )
    };
    if !root.is_file(PROGRAM) {
        return Err(none(format!("the guest has no `{PROGRAM}`")));
    }
    let text = root.read(PROGRAM, LARGEST_FILE).map_err(|error| guest_fault(&error))?;
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix("#!"));
    let words: Vec<String> =
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    if words.len() <= 2 && words.iter().any(|word| word.contains("python")) {
        return Ok(words);
    }
    Err(none(format!("the guest's `{PROGRAM}` is no program of Python")))
}

/// Copies what a directory of a guest holds: files, directories and links.
fn take_over(root: &GuestRoot, from: &Path, to: &Path, left: &mut usize) -> Result<(), Fault> {
    let fault = |error| guest_fault(&error);
    for place in root.entries_if_there(from).map_err(fault)? {
        let Some(rest) = left.checked_sub(1) else {
            let message = format!("`{}` of the guest has too many files", from.display());
            return Err(Fault::new(FaultKind::Step, "kiln::execute::subscription_place", message)
                .with_help("what subscription-manager needs are a few dozen files"));
        };
        *left = rest;
        let (path, target) = (from.join(place.name()), to.join(place.name()));
        let meta = place.expect("look at").map_err(fault)?;
        match meta.kind {
            FileType::Directory => {
                files::make_directory(&target, 0o755).map_err(|error| host(&error))?;
                take_over(root, &path, &target, left)?;
            }
            FileType::RegularFile => {
                let bytes = root.read(&path, LARGEST_FILE).map_err(fault)?;
                write_new(&target, &bytes, meta.mode).map_err(|error| host(&error))?;
            }
            FileType::Symlink => {
                let link = place.read_link("read").map_err(fault)?.unwrap_or_default();
                let made = std::os::unix::fs::symlink(link, &target).context("make", &target);
                made.map_err(|error| host(&error))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes a link where the lent file is to be: the host would follow it, and not in the guest.
fn drop_link(repositories: &Path) -> Result<(), files::FileError> {
    let path = repositories.join(LENT);
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_symlink() => fs::remove_file(&path).context("remove", &path),
        _ => Ok(()),
    }
}

/// Sees to it that a file which is bound over the guest's is there, and is one: what the guest's
/// programs put into its place may be a link, and a bind of it would lead to a file of the host.
fn plain_file(path: &Path) -> Result<(), Fault> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => {
            let message = format!("`{REPOSITORY}` of the guest is no regular file");
            let fault = Fault::new(FaultKind::Step, "kiln::execute::subscription_place", message);
            Err(fault.with_help(
                "`subscription-manager` writes a file there: remove what else is in its place",
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It never follows a link, either.
            write_new(path, b"", 0o644).map_err(|error| host(&error))
        }
        Err(error) => Err(error).context("look at", path).map_err(|error| host(&error)),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), files::FileError> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = fs::File::create_new(path).context("create", path)?;
    file.write_all(bytes).context("write", path)?;
    let mode = fs::Permissions::from_mode(mode & 0o777);
    file.set_permissions(mode).context("change the mode of", path)
}

/// The first id of a consumer in what `register` says.
fn consumer_id(said: &str) -> Option<String> {
    let dashes = [8, 13, 18, 23];
    let is_id = |word: &&str| {
        word.len() == 36
            && word.bytes().enumerate().all(|(at, byte)| {
                if dashes.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
            })
    };
    said.split(|c: char| !c.is_ascii_hexdigit() && c != '-').find(is_id).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_in_what_the_program_says() {
        let said = "Registering to: subscription.rhsm.redhat.com:443/subscription\nThe system has \
                    been registered with ID: 6d7eb9a2-94d1-4bd3-a1b2-0b3d1f7a9c55\n";
        assert_eq!(consumer_id(said).as_deref(), Some("6d7eb9a2-94d1-4bd3-a1b2-0b3d1f7a9c55"));
        assert_eq!(consumer_id("deadbeef-0000, and nothing else"), None);
    }

    #[test]
    fn what_the_guest_has_is_taken_over_and_bounded() {
        let (guest, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(guest.path().join("etc/rhsm/ca")).unwrap();
        fs::write(guest.path().join("etc/rhsm/rhsm.conf"), "hostname").unwrap();
        fs::write(guest.path().join("etc/rhsm/ca/a.pem"), "pem").unwrap();
        std::os::unix::fs::symlink("ca/a.pem", guest.path().join("etc/rhsm/link")).unwrap();
        let root = GuestRoot::open(guest.path()).unwrap();
        take_over(&root, Path::new("/etc/rhsm"), memory.path(), &mut 4).unwrap();
        assert_eq!(fs::read(memory.path().join("link")).unwrap(), b"pem");
        assert_eq!(fs::read(memory.path().join("rhsm.conf")).unwrap(), b"hostname");
        let again = tempfile::tempdir().unwrap();
        let few = take_over(&root, Path::new("/etc/rhsm"), again.path(), &mut 3);
        assert_eq!(few.unwrap_err().code_text(), Some("kiln::execute::subscription_place"));
    }

    #[test]
    fn a_link_in_place_of_the_lent_file_leads_nowhere() {
        let (top, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = host.path().join("shadow");
        fs::write(&file, "root:x").unwrap();
        let guest = top.path().join("guest");
        fs::create_dir_all(guest.join("etc/yum.repos.d")).unwrap();
        for target in [file.clone(), host.path().join("new")] {
            let lent = guest.join("etc/yum.repos.d/redhat.repo");
            let _ = fs::remove_file(&lent);
            std::os::unix::fs::symlink(&target, &lent).unwrap();
            let root = GuestRoot::open(&guest).unwrap();
            let memory = tempfile::tempdir().unwrap();
            take_over(&root, Path::new(REPOSITORIES), memory.path(), &mut 9).unwrap();
            let source = memory.path().join(LENT);
            // As it comes, and as the guest's program may plant it later.
            let fault = plain_file(&source).unwrap_err();
            assert_eq!(fault.code_text(), Some("kiln::execute::subscription_place"));
            drop_link(memory.path()).unwrap();
            plain_file(&source).unwrap();
            plain_file(&source).unwrap();
            assert!(fs::symlink_metadata(&source).unwrap().is_file());
        }
        assert_eq!(fs::read(&file).unwrap(), b"root:x");
        assert!(!host.path().join("new").exists());
        // Neither does anything else that is no file.
        fs::create_dir(host.path().join("directory")).unwrap();
        plain_file(&host.path().join("directory")).unwrap_err();
    }

    #[test]
    fn only_a_program_of_python_can_be_run_with_a_secret() {
        let guest = tempfile::tempdir().unwrap();
        let root = GuestRoot::open(guest.path()).unwrap();
        let code = |root: &GuestRoot| interpreter(root).unwrap_err().code_text().map(str::to_owned);
        assert_eq!(code(&root).as_deref(), Some("kiln::execute::no_subscription_manager"));
        fs::create_dir_all(guest.path().join("usr/sbin")).unwrap();
        let path = guest.path().join("usr/sbin/subscription-manager");
        fs::write(&path, "\x7fELF").unwrap();
        assert_eq!(code(&root).as_deref(), Some("kiln::execute::no_subscription_manager"));
        fs::write(&path, "#! /usr/libexec/platform-python -Es\nimport sys\n").unwrap();
        assert_eq!(interpreter(&root).unwrap(), ["/usr/libexec/platform-python", "-Es"]);
    }
}
