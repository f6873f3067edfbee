//! Steps that kiln does itself, on the guest's files, without running anything of the guest.
//!
//! It does not know the order of steps, and leaves programs to [`super::program_for`].

use super::error::GuestError;
use super::inspect::Guest;
use super::program::Snapshot;
use super::root::GuestRoot;
use super::users::{ShadowEdit, edit_password};
use super::{copy, edit, files, firstboot, hostname, ssh, tar_in, timezone};
use crate::recipe::{PasswordSecret, StepKind};

/// Does the host's part of a step: all of it where [`super::program_for`] gives no program, and
/// nothing where it gives one. `selinux-relabel` is nothing here, as the seal relabels, and neither is
/// `profile`, which is other steps.
///
/// # Errors
/// What the operation says; the tree may then be changed in part, and the step has no layer.
pub fn apply(root: &GuestRoot, guest: &Guest, kind: &StepKind<Snapshot>) -> Result<(), GuestError> {
    match kind {
        StepKind::Install(_)
        | StepKind::Uninstall(_)
        | StepKind::Update
        | StepKind::Run(_)
        | StepKind::RunCommand(_)
        | StepKind::InjectQemuGa
        | StepKind::Profile(_)
        | StepKind::SelinuxRelabel => Ok(()),
        StepKind::Write(step) => files::write(root, step),
        StepKind::AppendLine(step) => files::append_line(root, step),
        StepKind::CopyIn(step) => files::copy_in(root, step),
        StepKind::Upload(step) => files::upload(root, step),
        StepKind::Mkdir(step) => files::mkdir(root, step),
        StepKind::Delete(step) => files::delete(root, step),
        StepKind::Move(step) => files::rename(root, step),
        StepKind::Link(step) => files::link(root, step),
        StepKind::Chmod(step) => files::chmod(root, step),
        StepKind::Chown(step) => files::chown(root, step),
        StepKind::Touch(step) => files::touch(root, step),
        StepKind::Truncate(step) => files::truncate(root, step),
        StepKind::Hostname(name) => hostname::set(root, name),
        StepKind::Timezone(zone) => timezone::set(root, guest, zone),
        StepKind::Password(step) => match &step.secret {
            PasswordSecret::Hash(hash) => edit_password(root, &step.user, ShadowEdit::Hash(hash)),
            PasswordSecret::Locked => edit_password(root, &step.user, ShadowEdit::Lock),
            PasswordSecret::Disabled => edit_password(root, &step.user, ShadowEdit::Disable),
            PasswordSecret::Plain(_)
            | PasswordSecret::File(_)
            | PasswordSecret::Secret
            | PasswordSecret::Random => Ok(()),
        },
        StepKind::SshInject(step) => ssh::inject(root, step),
        StepKind::Firstboot(step) => firstboot::add(root, guest, step),
        StepKind::FirstbootCommand(step) => firstboot::add_command(root, guest, step),
        StepKind::FirstbootInstall(packages) => firstboot::add_install(root, guest, packages),
        StepKind::Edit(step) => edit::edit(root, step),
        StepKind::Copy(step) => copy::copy(root, step),
        StepKind::TarIn(step) => tar_in::tar_in(root, step),
        StepKind::TruncateRecursive(step) => files::truncate_recursive(root, step),
        StepKind::ScrubFile(step) => files::scrub_file(root, step),
    }
}
