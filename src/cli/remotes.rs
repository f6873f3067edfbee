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
    let sharing = &workspace.settings.sharing;
    let trust = Trust::new(&sharing.trusted);
    let patience = Patience::default();
    let mut members = Vec::new();
    for source in &sharing.remotes {
        match open(source, &patience) {
            Ok(backend) => members.push(Member {
                backend: Guarded::new(backend, &patience),
                read_only: source.read_only,
                impure: source.impure,
            }),
            Err(error) => super::show(&error),
        }
    }
    let gives = purpose == Purpose::Share && members.iter().any(|member| !member.read_only);
    let variables = |name: &str| std::env::var_os(name);
    let signer = if gives { Signer::find(&variables, &ask_for_password)? } else { None };
    if gives && signer.is_none() {
        eprintln!(
            "note: there is no signing key, so nothing is shared: `kiln key generate` makes one"
        );
    }
    Ok(Team::new(members, sharing.namespace.clone(), trust, signer))
}
