//! What an operation is called in plans and while it runs.

use crate::key::Operation;
use crate::name::GuestPath;
use crate::progress;
use crate::recipe::StepKind;

/// What an operation does, on one line of at most some 60 characters.
#[must_use]
pub fn summary(operation: &Operation) -> String {
    let detail = match operation {
        Operation::File(base) => format!("base file {}", base.file.name.to_string_lossy()),
        Operation::Fetch(fetched) => format!("base {}", fetched.origin),
        Operation::Bootstrap(bootstrap) => format!("base bootstrap {}", bootstrap.suite),
        Operation::Scratch(_) => "base scratch".to_owned(),
        Operation::Grow(size) => format!("grow to {}", progress::size(*size)),
        Operation::Seal(_) => "scrub, relabel, verify".to_owned(),
        Operation::Test(test) => {
            let sources: Vec<_> = test.machines().iter().map(|source| source.keyword()).collect();
            format!("boot test with {}", sources.join(" and "))
        }
        Operation::Step(kind) => {
            let detail = match kind {
                StepKind::Install(packages)
                | StepKind::Uninstall(packages)
                | StepKind::FirstbootInstall(packages) => {
                    packages.names.iter().cloned().collect::<Vec<_>>().join(" ")
                }
                StepKind::Profile(profile) => profile.name.clone(),
                StepKind::Update | StepKind::InjectQemuGa | StepKind::SelinuxRelabel => {
                    String::new()
                }
                StepKind::Run(run) => run.script.name.to_string_lossy().into_owned(),
                StepKind::RunCommand(run) | StepKind::FirstbootCommand(run) => {
                    run.script.lines().next().unwrap_or_default().to_owned()
                }
                StepKind::Write(step) => step.path.to_string(),
                StepKind::AppendLine(step) => step.path.to_string(),
                StepKind::CopyIn(step) | StepKind::Upload(step) | StepKind::TarIn(step) => {
                    format!("{} → {}", step.source.name.to_string_lossy(), step.destination)
                }
                StepKind::Mkdir(step) => step.path.to_string(),
                StepKind::Delete(step) => join(&step.patterns),
                StepKind::Edit(step) => step.path.to_string(),
                StepKind::Move(step) | StepKind::Copy(step) => {
                    format!("{} → {}", step.from, step.to)
                }
                StepKind::Link(step) => join(&step.links),
                StepKind::Chmod(step) => format!("{} {}", step.mode, join(&step.paths)),
                StepKind::Chown(step) => join(&step.paths),
                StepKind::Touch(step)
                | StepKind::Truncate(step)
                | StepKind::TruncateRecursive(step)
                | StepKind::ScrubFile(step) => join(&step.paths),
                StepKind::Hostname(name) => name.clone(),
                StepKind::Timezone(zone) => zone.clone(),
                StepKind::Password(step) => step.user.clone(),
                StepKind::SshInject(step) => step.user.clone(),
                StepKind::Firstboot(step) => step.script.name.to_string_lossy().into_owned(),
            };
            format!("{} {detail}", kind.keyword())
        }
    };
    let line: String = detail.trim_end().chars().filter(|c| !c.is_control()).collect();
    if line.chars().count() <= 60 {
        return line;
    }
    line.chars().take(59).chain(['…']).collect()
}

fn join(paths: &[GuestPath]) -> String {
    paths.iter().map(GuestPath::as_str).collect::<Vec<_>>().join(" ")
}
