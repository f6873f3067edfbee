//! The `kiln` program.

use std::process::ExitCode;

use kiln::execute::launcher::Role;

fn main() -> ExitCode {
    // Before anything else, as the roles are begun before any thread exists.
    if let Some(role) = Role::of_arguments() {
        return match role.run() {
            Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            Err(error) => {
                eprintln!("kiln's {role:?} process ended: {error}");
                ExitCode::FAILURE
            }
        };
    }
    kiln::cli::main()
}
