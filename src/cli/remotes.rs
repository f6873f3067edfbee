//! The remotes of `kiln.kdl`, opened for a command.

use super::CliError;
use crate::remote::signing::{Signer, ask_for_password};
use crate::remote::team::{Member, Team};
use crate::remote::trust::Trust;
use crate::remote::{Guarded, Patience, open};
use crate::workspace::Workspace;

/// What a command does with remotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It looks at what they have.
    Look,
    /// It takes results, and gives those that it makes.
    Share,
}

/// Opens all remotes; one that cannot be opened is left out with a warning.
pub(super) fn team(workspace: &Workspace, purpose: Purpose) -> Result<Team, CliError> {
    let members = members(workspace);
    let gives = purpose == Purpose::Share && members.iter().any(|member| !member.read_only);
    let signer = if gives { signer()? } else { None };
    if gives && signer.is_none() {
        eprintln!(
            "note: there is no signing key, so nothing is shared: `kiln key generate` makes one"
        );
    }
    Ok(of(workspace, members, signer))
}

/// The same for who signs something for elsewhere, and may want to fetch what is missing of it.
pub(super) fn signing_team(workspace: &Workspace, offline: bool) -> Result<Team, CliError> {
    let signer = signer()?.ok_or(CliError::NoSigningKey)?;
    let members = if offline { Vec::new() } else { members(workspace) };
    Ok(of(workspace, members, Some(signer)))
}

fn of(workspace: &Workspace, members: Vec<Member>, signer: Option<Signer>) -> Team {
    let sharing = &workspace.settings.sharing;
    Team::new(members, sharing.namespace.clone(), Trust::new(&sharing.trusted), signer)
}

fn signer() -> Result<Option<Signer>, CliError> {
    Ok(Signer::find(&|name| std::env::var_os(name), &ask_for_password)?)
}

fn members(workspace: &Workspace) -> Vec<Member> {
    let patience = Patience::default();
    let mut members = Vec::new();
    for source in &workspace.settings.sharing.remotes {
        match open(source, &patience) {
            Ok(backend) => members.push(Member {
                backend: Guarded::new(backend, &patience),
                read_only: source.read_only,
                impure: source.impure,
            }),
            Err(error) => super::show(&error),
        }
    }
    members
}
