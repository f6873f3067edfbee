//! What people leave in a guest, and their accounts.
//!
//! `/etc/passwd` is the guest's and so is every home directory in it: a name never becomes more than
//! one component of a path, and a directory of the system is never somebody's home.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{LIMIT, Work};
use crate::guest::error::{GuestError, escaped, shown};
use crate::guest::root::GuestRoot;
use crate::guest::users::{Accounts, User};

/// Largest account file that is edited, in bytes.
const LARGEST_ACCOUNTS: u64 = 16 << 20;
/// Ids of people where `/etc/login.defs` says nothing. Source: login.defs(5).
const PEOPLE: (u32, u32) = (1000, 60_000);
/// What shells and Python remember, in a home directory.
const HISTORIES: [&str; 7] = [
    ".bash_history",
    ".ash_history",
    ".zsh_history",
    ".sh_history",
    ".histfile",
    ".python_history",
    ".local/share/fish/fish_history",
];
/// Directories at the top of a system in which nobody is at home. `/var` is, from its third level on.
const SYSTEM: [&str; 15] = [
    "bin", "boot", "dev", "efi", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run",
    "sbin", "sys", "usr",
];
/// Most links that lead to a home directory, as in Linux (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

impl Work<'_> {
    /// The homes of root and of everybody in `/etc/passwd`, and what is in `/home`.
    fn homes(&self) -> Result<BTreeSet<PathBuf>, GuestError> {
        let mut homes = BTreeSet::from([PathBuf::from("/root")]);
        let accounts = Accounts::load(self.root)?;
        let absolute = |user: &User| user.home.starts_with('/') && !user.home.contains('\0');
        let named = accounts.users().iter().filter(|user| absolute(user));
        homes.extend(named.map(|user| PathBuf::from(&user.home)));
        for place in self.found("/home/*")? {
            homes.insert(place.path().to_owned());
        }
        Ok(homes)
    }

    /// Histories of root's and everybody's shells.
    pub(super) fn histories(&mut self) -> Result<(), GuestError> {
        for home in self.homes()? {
            for history in HISTORIES {
                if let Some(place) = self.place(home.join(history))? {
                    self.remove_file(&place)?;
                }
            }
        }
        Ok(())
    }

    /// The `.ssh` of root and everybody.
    pub(super) fn ssh_directories(&mut self) -> Result<(), GuestError> {
        for home in self.homes()? {
            if let Some(place) = self.place(home.join(".ssh"))? {
                self.remove_tree(&place)?;
            }
        }
        Ok(())
    }

    /// The accounts of people: their lines in all account files, their homes, mail and jobs.
    pub(super) fn user_accounts(&mut self, keep: &BTreeSet<String>) -> Result<(), GuestError> {
        let accounts = Accounts::load(self.root)?;
        let there: BTreeSet<&str> = accounts.users().iter().map(|user| &*user.name).collect();
        for name in keep.iter().filter(|name| !there.contains(name.as_str())) {
            let name = escaped(name);
            self.keep(&format!("`{name}`, whom `keep-user` names, is nobody in the guest"));
        }
        let people = self.ids_of_people()?;
        let is_person =
            |user: &&User| (people.0..=people.1).contains(&user.uid) && !keep.contains(&user.name);
        let (gone, stay): (Vec<&User>, Vec<&User>) =
            accounts.users().iter().partition(|user| is_person(user));
        // A name that has another line too, outside of the range, stays with all it has.
        let staying: BTreeSet<&str> = stay.iter().map(|user| &*user.name).collect();
        let gone: Vec<&User> =
            gone.into_iter().filter(|user| !staying.contains(&*user.name)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut homes = BTreeSet::new();
        for user in &stay {
            homes.extend(self.home(user)?);
        }
        for user in &gone {
            self.remove_home(user, &homes)?;
            self.remove_named(&user.name)?;
        }
        self.edit_accounts(&gone, &stay)
    }

    fn ids_of_people(&self) -> Result<(u32, u32), GuestError> {
        let text = self.root.read_if_there("/etc/login.defs", LIMIT)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let value = |wanted: &str| {
            let mut lines = text.lines().map(str::split_whitespace);
            let found =
                lines.find_map(|mut words| (words.next()? == wanted).then(|| words.next())?);
            found.and_then(|value| value.parse().ok())
        };
        let min = value("UID_MIN").unwrap_or(PEOPLE.0);
        // Root's id is nobody else's, whatever the file says.
        Ok((min.max(1), value("UID_MAX").unwrap_or(PEOPLE.1)))
    }

    /// Where a user is at home, resolved; `None` where that is nowhere.
    fn home(&self, user: &User) -> Result<Option<PathBuf>, GuestError> {
        let home = Path::new(&user.home);
        if !home.is_absolute() || user.home.contains('\0') {
            return Ok(None);
        }
        resolved(self.root, home)
    }

    /// Removes a home, unless it is the system's or holds one of `stay`, which are resolved.
    fn remove_home(&mut self, user: &User, stay: &BTreeSet<PathBuf>) -> Result<(), GuestError> {
        let Some(real) = self.home(user)? else { return Ok(()) };
        let home = Path::new(&user.home);
        // Paths are sorted by their components: what a directory holds comes right behind it.
        let holds = stay.range(real.clone()..).next().is_some_and(|next| next.starts_with(&real));
        let why = if is_system(&real) {
            Some("is a directory of the system")
        } else if holds {
            Some("holds the home of an account that stays")
        } else {
            None
        };
        if let Some(why) = why {
            let (home, name) = (shown(&real), escaped(&user.name));
            self.keep(&format!("`{home}`, the home of `{name}`, {why}"));
            return Ok(());
        }
        // The link by which it is known goes as well as the directory.
        for path in [real.as_path(), home] {
            if let Some(place) = self.place(path)? {
                self.remove_tree(&place)?;
            }
        }
        Ok(())
    }

    /// What is kept for a user by name: mail, jobs, the right to linger, settings of the session.
    fn remove_named(&mut self, name: &str) -> Result<(), GuestError> {
        let mut components = Path::new(name).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(plain)), None) if plain == name)
            || name.contains('\0')
        {
            return Ok(());
        }
        for directory in [
            "/var/spool/mail",
            "/var/mail",
            "/var/spool/cron",
            "/var/spool/cron/crontabs",
            "/var/spool/cron/tabs",
            "/var/lib/systemd/linger",
            "/var/lib/AccountsService/users",
        ] {
            if let Some(place) = self.place(Path::new(directory).join(name))? {
                self.remove_file(&place)?;
            }
        }
        Ok(())
    }

    fn edit_accounts(&mut self, gone: &[&User], stay: &[&User]) -> Result<(), GuestError> {
        let names: BTreeSet<&[u8]> = gone.iter().map(|user| user.name.as_bytes()).collect();
        let ids: BTreeSet<String> = gone.iter().map(|user| user.uid.to_string()).collect();
        let group = self.accounts("/etc/group")?;
        let groups = own_groups(&group, gone, stay, &names);
        let is_gone = |fields: &[&[u8]]| names.contains(fields[0]);
        // The file of users goes last: what it names was found through it.
        self.edit_table("/etc/group", |fields| {
            (!groups.contains(fields[0])).then(|| without_members(fields, &[3], &names))
        })?;
        self.edit_table("/etc/gshadow", |fields| {
            (!groups.contains(fields[0])).then(|| without_members(fields, &[2, 3], &names))
        })?;
        for file in ["/etc/subuid", "/etc/subgid"] {
            self.edit_table(file, |fields| {
                let by_id = std::str::from_utf8(fields[0]).is_ok_and(|id| ids.contains(id));
                (!is_gone(fields) && !by_id).then(|| fields.join(&b':'))
            })?;
        }
        for file in ["/etc/shadow", "/etc/passwd"] {
            self.edit_table(file, |fields| (!is_gone(fields)).then(|| fields.join(&b':')))?;
        }
        Ok(())
    }

    fn accounts(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        Ok(self.root.read_if_there(path, LARGEST_ACCOUNTS)?.unwrap_or_default())
    }

    /// Edits a file of lines with fields between colons. `edit` gives the new line, or `None` for
    /// none; there is always a first field.
    fn edit_table(
        &mut self,
        path: &str,
        edit: impl Fn(&[&[u8]]) -> Option<Vec<u8>>,
    ) -> Result<(), GuestError> {
        let before = self.accounts(path)?;
        let mut after = Vec::with_capacity(before.len());
        for line in before.split_inclusive(|&byte| byte == b'\n') {
            let (said, end) = match line.strip_suffix(b"\n") {
                Some(said) => (said, &b"\n"[..]),
                None => (line, &b""[..]),
            };
            let fields: Vec<&[u8]> = said.split(|&byte| byte == b':').collect();
            if let Some(line) = edit(&fields) {
                after.extend(line);
                after.extend_from_slice(end);
            }
        }
        self.change(path, &before, &after)
    }
}

/// The groups that go with their users, as `userdel` decides it: those of the user's name that are
/// nobody else's.
fn own_groups<'a>(
    group: &'a [u8],
    gone: &[&User],
    stay: &[&User],
    names: &BTreeSet<&[u8]>,
) -> BTreeSet<&'a [u8]> {
    let users: BTreeSet<(&[u8], u32)> =
        gone.iter().map(|user| (user.name.as_bytes(), user.gid)).collect();
    let primary: BTreeSet<u32> = stay.iter().map(|user| user.gid).collect();
    let mut groups = BTreeSet::new();
    for line in group.split(|&byte| byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        let [name, _, id, members, ..] = fields.as_slice() else { continue };
        let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) else {
            continue;
        };
        let own = users.contains(&(*name, id)) && !primary.contains(&id);
        let mut others = members.split(|&byte| byte == b',').filter(|member| !member.is_empty());
        if own && others.all(|member| names.contains(member)) {
            groups.insert(*name);
        }
    }
    groups
}

/// A line of a group with some names taken out of some of its fields.
fn without_members(fields: &[&[u8]], lists: &[usize], names: &BTreeSet<&[u8]>) -> Vec<u8> {
    let fields = fields.iter().enumerate().map(|(number, &field)| {
        if !lists.contains(&number) {
            return field.to_vec();
        }
        let members = field.split(|&byte| byte == b',');
        members.filter(|member| !names.contains(member)).collect::<Vec<_>>().join(&b',')
    });
    fields.collect::<Vec<_>>().join(&b':')
}

/// Whether a directory, resolved, is the system's: the root, what is right below it, and all of a
/// directory that belongs to the system.
fn is_system(path: &Path) -> bool {
    let names: Vec<&[u8]> = path.iter().skip(1).map(OsStrExt::as_bytes).collect();
    match names.as_slice() {
        [] | [_] => true,
        [first, rest @ ..] => {
            SYSTEM.iter().any(|system| system.as_bytes() == *first)
                || *first == b"var" && rest.len() == 1
        }
    }
}

/// Where a path leads in the guest once every link in it is followed; `None` where nothing is.
fn resolved(root: &GuestRoot, path: &Path) -> Result<Option<PathBuf>, GuestError> {
    let names = |path: &Path| -> Vec<OsString> {
        let plain = path.components().filter(|part| {
            matches!(part, Component::Normal(_) | Component::ParentDir | Component::RootDir)
        });
        plain.map(|part| part.as_os_str().to_owned()).collect()
    };
    let mut waiting: VecDeque<OsString> = names(path).into();
    let (mut real, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = waiting.pop_front() {
        if name == "/" {
            real = PathBuf::from("/");
        } else if name == ".." {
            real.pop();
        } else {
            real.push(name);
            if let Some(target) = root.read_link(&real)? {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(None);
                }
                real.pop();
                for part in names(&target).into_iter().rev() {
                    waiting.push_front(part);
                }
            }
        }
    }
    Ok(root.lstat(&real)?.map(|_| real))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_at_home_in_the_system() {
        for path in [
            "/",
            "/home",
            "/srv",
            "/data",
            "/etc",
            "/etc/web",
            "/usr/local/x",
            "/var/www",
            "/root/x",
        ] {
            assert!(is_system(Path::new(path)), "{path}");
        }
        for path in
            ["/home/web", "/srv/web", "/opt/web", "/var/lib/web", "/var/home/web", "/data/a/b"]
        {
            assert!(!is_system(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_group_goes_with_its_user_alone() {
        let user = |name: &str, uid, gid| User { name: name.into(), uid, gid, home: String::new() };
        let (a, b, c, d) = (
            user("a", 1000, 1000),
            user("b", 1001, 1001),
            user("c", 1002, 1002),
            user("d", 1, 1001),
        );
        let names = BTreeSet::from([&b"a"[..], b"b", b"c"]);
        let group = b"a:x:1000:\nb:x:1001:\nc:x:1002:a,d\nd:x:1:\nodd\n";
        let groups = own_groups(group, &[&a, &b, &c], &[&d], &names);
        assert_eq!(groups, BTreeSet::from([&b"a"[..]]));
        let line = without_members(&[b"wheel", b"!", b"a,d", b"d,b"], &[2, 3], &names);
        assert_eq!(line, b"wheel:!:d:d");
    }
}
